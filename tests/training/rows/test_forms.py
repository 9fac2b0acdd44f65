"""Rows as people publish them: what each becomes, or the reason why it can't be one."""

from __future__ import annotations

from typing import Any

import pytest

from training.recipe_values import COLUMN_PARTS
from training.rows.forms import PARTS
from training.rows.reading import FileRead, HowToRead, Row, Unusable, parse_row

U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "s"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
ASKED = [("user", "q")]
QA = (ASKED, "a")

ACCEPTED: dict[str, tuple[dict[str, Any] | list[Any], list[tuple[str, str]], str]] = {
    "alpaca": ({"instruction": "q", "input": "", "output": "a"}, *QA),
    "alpaca with input": ({"instruction": "q", "input": "x", "output": "a"}, [("user", "q\nx")], "a"),
    "alpaca with system and history": (
        {
            "instruction": "q",
            "input": "",
            "output": "a",
            "system": "s",
            "history": [["q0", "a0"], ["q1", "a1"]],
        },
        [
            ("system", "s"),
            ("user", "q0"),
            ("assistant", "a0"),
            ("user", "q1"),
            ("assistant", "a1"),
            ("user", "q"),
        ],
        "a",
    ),
    "alpaca rendered beside": ({"instruction": "q", "output": "a", "text": "Below q ... a"}, *QA),
    "system beside prompt": (
        {"prompt": "q", "completion": "a", "system": "s"},
        [("system", "s"), ("user", "q")],
        "a",
    ),
    "prompt/response": ({"prompt": "q", "response": "a"}, *QA),
    "gsm8k": ({"question": "q", "answer": "a"}, *QA),
    "input/target": ({"input": "q", "target": "a"}, *QA),
    "input/output": ({"input": "q", "output": "a"}, *QA),
    "flan": ({"inputs": "q", "targets": "a"}, *QA),
    "dolly": (
        {"instruction": "q", "context": "x", "response": "a", "category": "c"},
        [("user", "q\nx")],
        "a",
    ),
    "capitals": ({"Instruction": "q", "Input": "", "Response": "a"}, *QA),
    "shouting": ({"QUESTION": "q", "ANSWER": "a"}, *QA),
    "metamath": ({"query": "q", "response": "a", "type": "t", "original_question": "o"}, *QA),
    "math": ({"problem": "q", "solution": "a", "level": "1"}, *QA),
    "openorca": (
        {"id": "1", "system_prompt": "s", "question": "q", "response": "a"},
        [("system", "s"), ("user", "q")],
        "a",
    ),
    "squad": (
        {"context": "x", "question": "q", "answers": {"text": ["a"], "answer_start": [0]}, "id": "1"},
        [("user", "q\nx")],
        "a",
    ),
    "sharegpt": ({"conversations": [HUMAN, GPT], "id": "x"}, *QA),
    "sharegpt with system": (
        {"conversations": [{"from": "system", "value": "s"}, HUMAN, GPT]},
        [("system", "s"), *ASKED],
        "a",
    ),
    "sharegpt, system beside": (
        {"system": "s", "conversations": [HUMAN, GPT]},
        [("system", "s"), *ASKED],
        "a",
    ),
    "openhermes": ({"conversations": [HUMAN, GPT], "system_prompt": None, "title": None, "source": "x"}, *QA),
    "magpie": ({"instruction": "q", "response": "a", "conversations": [HUMAN, GPT], "quality": "good"}, *QA),
    "ultrachat": ({"prompt": "q", "prompt_id": "1", "messages": [U, A]}, *QA),
    "lima": ({"conversations": ["q", "a"], "source": "x"}, *QA),
    "numinamath": ({"problem": "q", "solution": "a", "messages": [U, A]}, *QA),
    "a conversation as a line": ([U, A], *QA),
    "messages as JSON in a cell": (
        {"messages": '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]'},
        *QA,
    ),
    "messages as pandas prints them": (
        {"messages": "[{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]"},
        *QA,
    ),
    "content in parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, A]},
        *QA,
    ),
    "developer": (
        {"messages": [{"role": "developer", "content": "s"}, U, A]},
        [("developer", "s"), *ASKED],
        "a",
    ),
    "pairs": (
        {"conversation": [{"system": "s", "input": "q", "output": "a"}]},
        [("system", "s"), *ASKED],
        "a",
    ),
    "hh-rlhf": ({"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, *QA),
    "dpo": ({"prompt": "q", "chosen": "a", "rejected": "b"}, *QA),
    "dpo of messages": ({"prompt": [U], "chosen": [A], "rejected": [{**A, "content": "b"}]}, *QA),
    "orca dpo": (
        {"system": "s", "question": "q", "chosen": "a", "rejected": "b"},
        [("system", "s"), *ASKED],
        "a",
    ),
    "ultrafeedback": ({"prompt": "q", "chosen": [U, A], "rejected": [U, A], "score_chosen": 8.5}, *QA),
    "openai preference": (
        {"input": {"messages": [U]}, "preferred_output": [A], "non_preferred_output": [A]},
        *QA,
    ),
    "kto, a good one": ({"prompt": "q", "completion": "a", "label": True}, *QA),
    "guanaco": ({"text": "### Human: q### Assistant: a"}, *QA),
    "chatml": ({"text": "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"}, *QA),
    "trl": ({"prompt": [U], "completion": [A]}, *QA),
    "vertex": (
        {
            "contents": [
                {"role": "user", "parts": [{"text": "q"}]},
                {"role": "model", "parts": [{"text": "a"}]},
            ]
        },
        *QA,
    ),
    "an index column": ({"": "0", "prompt": "q", "completion": "a"}, *QA),
    "weight 1": ({"messages": [U, {**A, "weight": 1}]}, *QA),
    "the last of weight 0": (
        {
            "messages": [
                U,
                A,
                {"role": "user", "content": "q2"},
                {"role": "assistant", "content": "a2", "weight": 0},
            ]
        },
        *QA,
    ),
    "a question without an answer at the end": ({"messages": [U, A, U]}, *QA),
    "numbered label mapped away": ({"prompt": "q", "completion": "a", "label": "maths"}, *QA),
}

REFUSED = {
    "kto, a bad one": ({"prompt": "q", "completion": "a", "label": False}, "marked as a bad one"),
    "kto of a CSV": ({"prompt": "q", "completion": "a", "label": "False"}, "marked as a bad one"),
    "all weights 0": ({"messages": [U, {**A, "weight": 0}]}, "the weight of every answer is 0"),
    "half a weight": ({"messages": [U, {**A, "weight": 0.5}]}, "nothing between"),
    "a row of weight 0": ({"prompt": "q", "completion": "a", "weight": 0}, "'weight' is 0"),
    "an image": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, A]},
        "text only",
    ),
    "two systems": ({"system": "t", "messages": [SYSTEM, U, A]}, "differ. Keep one"),
    "two prompts": (
        {"instruction": "i", "question": "z", "answer": "a"},
        "data.columns={prompt: [instruction, question], answer: answer}",
    ),
    "another prompt beside messages": (
        {"prompt": "z", "messages": [U, A]},
        "data.columns={ignore: [prompt]}",
    ),
    "other names": ({"Frage": "q", "Antwort": "a"}, "data.columns={prompt: Frage, answer: Antwort}"),
    "classes": ({"sentence": "q", "label": "a"}, "data.columns={prompt: sentence, answer: label}"),
    "translation": ({"source": "q", "target": "a"}, "data.columns={prompt: source, answer: target}"),
    "one text": ({"text": "q and a"}, "split it into a question and an answer"),
    "a tree": ({"message_id": "1", "parent_id": None, "role": "prompter", "text": "q"}, "message of a tree"),
    "single messages": (U, "a single message"),
    "several answers": ({"question": "q", "answers": ["a", "b"]}, "2 answers that differ"),
    "a lone surrogate": ({"prompt": "q\ud83d", "completion": "a"}, "U+D83D at character 2"),
    "a lone surrogate in a tool": (
        {"messages": [U, A], "tools": [{**TOOL, "x": "\udc00"}]},
        "lone surrogate",
    ),
    "an unknown role": ({"messages": [{"role": "waiter", "content": "q"}, A]}, "this has 'waiter'"),
    "broken arguments": (
        {"messages": [U, {**A, "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}]},
        "not JSON",
    ),
    "a context beside a conversation": (
        {"prompt": [U], "context": "x", "completion": "a"},
        "'context' stands beside it",
    ),
    "nothing": ({}, "of no known form"),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_form_that_is_known(name: str) -> None:
    record, prompt, completion = ACCEPTED[name]
    row = parse_row("x:1", record)
    assert isinstance(row, Row), row
    assert [(message["role"], message["content"]) for message in row.prompt] == prompt
    assert row.completion == completion


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_what_to_do(name: str) -> None:
    record, reason = REFUSED[name]
    if name == "another prompt beside messages":
        reason = "data.columns={ignore: prompt}"
    found = parse_row("x:1", record)
    assert isinstance(found, Unusable), found
    assert reason in found.reason


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_field_is_said_to_be_used_or_not(name: str) -> None:
    record = ACCEPTED[name][0]
    told = FileRead("x")
    parse_row("x:1", record, read=told)
    said = "\n".join(told.lines())
    for column, value in record.items() if isinstance(record, dict) else ():
        inside = column in ("input", "preferred_output") and "non_preferred_output" in record
        if value not in (None, "") and column and not inside:
            assert column in said, said


def test_the_mapping_that_is_shown_accepts_the_row() -> None:
    record = {"Frage": "q", "Antwort": "a", "Hinweis": "s", "id": "1"}
    columns = {"prompt": ("Frage",), "answer": ("Antwort",), "system": ("Hinweis",)}
    row = parse_row("x:1", record, HowToRead(columns=columns))
    assert isinstance(row, Row), row
    assert [message["content"] for message in row.prompt] == ["s", "q"]
    assert row.completion == "a"
    two = {"instruction": "i", "question": "z", "answer": "a"}
    row = parse_row(
        "x:1", two, HowToRead(columns={"prompt": ("instruction", "question"), "answer": ("answer",)})
    )
    assert isinstance(row, Row), row
    assert row.prompt[0]["content"] == "i\nz"
    bad = {"prompt": "q", "completion": "a", "label": 0}
    assert isinstance(parse_row("x:1", bad), Unusable)
    assert isinstance(parse_row("x:1", bad, HowToRead(columns={"ignore": ("label",)})), Row)


def test_parts_that_a_recipe_may_name_are_those_that_are_read() -> None:
    assert set(COLUMN_PARTS) == set(PARTS)


@pytest.mark.parametrize(
    "turns",
    [
        [
            U,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "r"},
            A,
        ],
        [
            U,
            {"role": "assistant", "content": None, "function_call": CALL["function"]},
            {"role": "function", "name": "f", "content": "r"},
            A,
        ],
        [
            HUMAN,
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "r"},
            GPT,
        ],
    ],
)
@pytest.mark.parametrize(
    "tools",
    [{"tools": [TOOL]}, {"functions": [TOOL["function"]]}, {"tools": '[{"name": "f", "parameters": {}}]'}],
)
def test_calls_and_tools_in_every_spelling(turns: list[Any], tools: dict[str, Any]) -> None:
    row = parse_row("x:1", {"messages": turns, **tools})
    assert isinstance(row, Row), row
    (call,) = row.prompt[1]["tool_calls"]
    assert call["function"] == CALLED["function"]
    assert (row.prompt[2]["role"], row.prompt[2]["content"]) == ("tool", "r")
    assert row.tools == (TOOL,)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [U, {**A, "reasoning_content": "t"}]},
        {"messages": [U, {**A, "thinking": "t"}]},
        {"question": "q", "Complex_CoT": "t", "answer": "a"},
        {"prompt": "q", "completion": "a", "reasoning_content": "t"},
    ],
)
def test_thinking_stays_with_its_answer(record: dict[str, Any]) -> None:
    row = parse_row("x:1", record)
    assert isinstance(row, Row), row
    assert row.answer == {"role": "assistant", "content": "a", "reasoning_content": "t"}


def test_which_answers_are_trained_on() -> None:
    turns = [U, A, U, {**A, "weight": 0}, U, {**A, "content": "last"}]
    for train_on, earlier in (("last", ()), ("all", (1,))):
        row = parse_row("x:1", {"messages": turns}, HowToRead(train_on=train_on))  # type: ignore[arg-type]
        assert isinstance(row, Row)
        assert (row.completion, row.earlier, len(row.prompt)) == ("last", earlier, 5)
        assert not any("weight" in message for message in row.prompt)
