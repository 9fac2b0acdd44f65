"""What chat templates do to a row: every answer that is trained on is found, what is left out is a reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from training.rows.reading import HowToRead, Row, Unusable, parse_row
from training.rows.rendering import TokenRow, prompt_ids, render

TURN = "<|{{ m.role }}|>{{ m.content }}{{ eos_token }}"
PLAIN = "{{ bos_token }}{% for m in messages %}" + TURN + "{% endfor %}"
OPEN = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
# As Qwen3's: the last answer has a place for thinking, earlier ones lose it.
THINKS = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' and loop.last %}<think>{{ m.reasoning_content or '' }}</think>{% endif %}"
    "{% if m.role == 'assistant' %}{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "{{ eos_token }}{% endfor %}" + OPEN
)
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there!"},
    {"role": "user", "content": "A colour?"},
    {"role": "assistant", "content": "Blue", "weight": 0},
    {"role": "user", "content": "Another?"},
    {"role": "assistant", "content": "Red"},
    {"role": "user", "content": "And one more?"},
    {"role": "assistant", "content": "Green"},
]


def row_of(record: Any, train_on: Any = "last") -> Row:
    row = parse_row("x:1", record, HowToRead(train_on=train_on))
    assert isinstance(row, Row), row
    return row


def rendered(tokenizer: PreTrainedTokenizerBase, template: str, row: Row) -> TokenRow | Unusable:
    tokenizer.chat_template = template
    return render(tokenizer, row, "last_user", 512)


@pytest.mark.parametrize("template", [PLAIN + OPEN, THINKS])
def test_all_answers_but_those_of_weight_0_are_trained_on(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    row = row_of({"messages": TALK}, "all")
    found = rendered(tokenizer, template, row)
    assert isinstance(found, TokenRow), found
    assert list(found.input_ids[: found.prompt_length]) == prompt_ids(tokenizer, row.prompt)
    learned = [tokenizer.decode(list(found.input_ids[start:stop])) for start, stop in found.earlier]
    assert learned == ["Hi there!</s>", "Red</s>"]
    trained = [token for token in found.labels if token != -100]
    assert tokenizer.decode(trained).replace("<think></think>", "") == "Hi there!</s>Red</s>Green</s>"
    assert found.trained_tokens == len(trained)
    last = rendered(tokenizer, template, replace(row, earlier=()))
    assert isinstance(last, TokenRow)
    assert list(last.input_ids) == list(found.input_ids)
    assert tokenizer.decode([token for token in last.labels if token != -100]).endswith("Green</s>")


def test_the_loss_mask_is_where_the_letters_are(tokenizer: PreTrainedTokenizerBase) -> None:
    found = rendered(tokenizer, PLAIN + OPEN, row_of({"messages": TALK}, "all"))
    assert isinstance(found, TokenRow)
    for place, label in enumerate(found.labels):
        assert label in (-100, found.input_ids[place])
    for start, stop in found.earlier:
        assert tokenizer.decode([found.input_ids[start - 1]]) == "<|assistant|>"
        assert found.input_ids[stop - 1] == tokenizer.eos_token_id


USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"function": {"name": "look", "arguments": {"x": "there"}}}],
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
REFUSALS = {
    "no system": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + TURN + "{% endfor %}" + OPEN,
        {"system": "s", "prompt": "q", "completion": "a"},
        "the chat template refuses it (System role not supported)",
    ),
    "needs a system": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('A system turn comes first') }}{% endif %}"
        + PLAIN
        + OPEN,
        {"prompt": "q", "completion": "a"},
        "A system turn comes first",
    ),
    "strict turns": (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}" + TURN + "{% endfor %}" + OPEN,
        {"messages": [USER, USER, ANSWER]},
        "roles must alternate",
    ),
    "a system turn is dropped": (
        "{% for m in messages %}{% if m.role != 'system' %}" + TURN + "{% endif %}{% endfor %}" + OPEN,
        {"system": "Be brief", "prompt": "q", "completion": "a"},
        "leaves out or rewrites its system turn",
    ),
    "a developer turn is dropped": (
        "{% for m in messages %}{% if m.role in ('user', 'assistant') %}"
        + TURN
        + "{% endif %}{% endfor %}"
        + OPEN,
        {"messages": [{"role": "developer", "content": "Be brief"}, USER, ANSWER]},
        "its developer turn",
    ),
    "thinking is dropped": (
        PLAIN + OPEN,
        {"messages": [USER, {**ANSWER, "reasoning_content": "Hm, so"}]},
        "leaves out its thinking",
    ),
    "written thinking is dropped": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endfor %}"
        + OPEN,
        {"prompt": "q", "completion": "<think>Hm</think>a"},
        "leaves out or rewrites its thinking",
    ),
    "calls are dropped": (PLAIN + OPEN, {"messages": [USER, CALLS]}, "leaves out or rewrites its tool calls"),
    "tools are dropped": (
        PLAIN + OPEN,
        {"messages": [USER, ANSWER], "tools": [TOOL]},
        "leaves out its tools",
    ),
    "a prompt is rewritten": (
        "{% for m in messages %}<|{{ m.role }}|>{{ m.content.replace('/think', '') }}{{ eos_token }}{% endfor %}"
        + OPEN,
        {"prompt": "q /think", "completion": "a"},
        "leaves out or rewrites its user turn",
    ),
    "an opened thought is gone": (
        PLAIN + OPEN.replace("<|assistant|>", "<|assistant|><think>"),
        {"prompt": "q", "completion": "a"},
        "opens the answer otherwise",
    ),
    "a template that breaks": (
        "{{ messages[0].content + 1 }}",
        {"prompt": "q", "completion": "a"},
        "the chat template refuses it (",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_template_can_not_render_is_a_row_with_a_reason(
    tokenizer: PreTrainedTokenizerBase, name: str
) -> None:
    template, record, reason = REFUSALS[name]
    found = rendered(tokenizer, template, row_of(record))
    assert isinstance(found, Unusable), found
    assert reason in found.reason


def test_tools_calls_and_thinking_that_the_template_has_are_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    template = (
        "{{ bos_token }}{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|{{ m.role }}|>"
        "{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{{ eos_token }}{% endfor %}"
        + OPEN
    )
    row = row_of({"messages": [USER, {**CALLS, "thinking": "Hm, so"}], "tools": [TOOL]})
    found = rendered(tokenizer, template, row)
    assert isinstance(found, TokenRow), found
    answer = tokenizer.decode(list(found.input_ids[found.prompt_length :]))
    assert answer == '<think>Hm, so</think>{"name": "look", "arguments": {"x": "there"}}</s>'
    assert "look" in tokenizer.decode(list(found.input_ids[: found.prompt_length]))


def test_an_earlier_answers_thinking_that_is_dropped_can_not_be_trained_on(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    record = {"messages": [USER, {**ANSWER, "reasoning_content": "Hm"}, USER, ANSWER]}
    assert isinstance(rendered(tokenizer, THINKS, row_of(record)), TokenRow)
    found = rendered(tokenizer, THINKS, row_of(record, "all"))
    assert isinstance(found, Unusable)
    assert "say data.train_on=last" in found.reason
