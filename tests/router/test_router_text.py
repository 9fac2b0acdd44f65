"""Which text is routed: the same for training rows, chat requests and templated raw prompts."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from transformers import PreTrainedTokenizerFast

from bundle.manifest import RoutedTextRule
from router.chat_template import ChatTemplate
from router.text import PromptReader, routed_text
from training.rows.reading import Row, parse_row

INSTRUCTION = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}### Response:\n{{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}### Response:\n{% endif %}"
)
CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system %}"
    "{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PARTS = (
    "{{ strftime_now('%Y') }}\n{% for m in messages %}<|{{ m.role }}|>\n{% for part in m.content %}{{ part.text }}"
    "{% endfor %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEMPLATES = {
    "instruction": (INSTRUCTION, "<s>", "</s>"),
    "chatml": (CHATML, None, "<|im_end|>"),
    "llama-2": (LLAMA_2, "<s>", "</s>"),
    "gemma": (GEMMA, "<bos>", "<eos>"),
    "parts": (PARTS, "<s>", "<|endoftext|>"),
}
ANSWER = {"role": "assistant", "content": "Because."}
ASKED = "Sort these:\n\n1. pear\n2. fig"


def user(content: object) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("hello")], "hello"),
        ([{"role": "system", "content": "s"}, user("a"), {"role": "assistant", "content": "b"}], "a"),
        ([user("first"), {"role": "assistant", "content": "b"}, user("last")], "last"),
        ([user([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}])], "one\ntwo"),
        ([user([{"type": "input_text", "text": "one"}])], "one"),
        (
            [user([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "look"}])],
            "look",
        ),
        ([user("text before"), user([{"type": "image_url", "image_url": {"url": "x"}}])], ""),
        ([user([])], ""),
        ([user(None)], ""),
        ([{"role": "user"}], ""),
        ([{"role": "assistant", "content": "only me"}], ""),
        ([], ""),
        (
            [user("use the tool"), {"role": "assistant"}, user([{"type": "tool_result", "content": "42"}])],
            "use the tool",
        ),
        ([user("ask"), {"role": "tool", "content": "42"}], "ask"),
    ],
)
def test_the_last_user_turn(messages: list[dict[str, Any]], expected: str) -> None:
    assert routed_text(messages, "last_user") == expected


_RULES: tuple[tuple[RoutedTextRule, str], ...] = (
    ("last_user", "last\nlook"),
    ("first_user", "first"),
    ("all_user", "first\nlast\nlook"),
)


@pytest.mark.parametrize(("rule", "expected"), _RULES)
def test_the_other_rules_pass_over_the_same_turns(rule: RoutedTextRule, expected: str) -> None:
    image = {"type": "image_url", "image_url": {"url": "x"}}
    texts = [{"type": "text", "text": "last"}, image, {"type": "input_text", "text": "look"}]
    messages = [
        {"role": "system", "content": "never"},
        user([{"type": "tool_result", "content": "nor this"}]),
        user("first"),
        {"role": "assistant", "content": "nor this"},
        user(texts),
        user([{"type": "tool_result", "content": "nor this"}]),
    ]
    assert routed_text(messages, rule) == expected
    assert routed_text(messages[:1], rule) == ""


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown rule 'first'"):
        routed_text([user("a")], "first")  # type: ignore[arg-type]


def conversation(name: str, turns: list[tuple[str, str]]) -> list[dict[str, Any]]:
    if name == "parts":
        return [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    return [{"role": role, "content": text} for role, text in turns]


def rendered(name: str, turns: list[tuple[str, str]], generation: bool = True) -> str:
    messages = conversation(name, turns)
    return ChatTemplate(*TEMPLATES[name]).render(messages, add_generation_prompt=generation)


SEVERAL = [("user", "Hi there"), ("assistant", "Hello."), ("user", ASKED)]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "turns", [[("user", ASKED)], SEVERAL, [*SEVERAL, ("assistant", "No."), ("user", "Why?")]]
)
@pytest.mark.parametrize("generation", [True, False])
def test_a_templated_prompt_is_read_as_its_last_user_turn(
    name: str, turns: list[tuple[str, str]], generation: bool
) -> None:
    reader = PromptReader(*TEMPLATES[name])
    assert reader.user_turn(rendered(name, turns, generation)) == turns[-1][1]


LONG = [
    ("user", "Hi there"),
    ("assistant", "Hello."),
    ("user", ASKED),
    ("assistant", "No."),
    ("user", "Why?"),
]


@pytest.mark.parametrize("rule", get_args(RoutedTextRule))
@pytest.mark.parametrize("system", [[], [("system", "Speak like a pirate.")]])
@pytest.mark.parametrize("generation", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_templated_prompt_a_request_and_a_row_are_read_alike(
    name: str, generation: bool, system: list[tuple[str, str]], rule: RoutedTextRule
) -> None:
    if system and name == "gemma":
        system = []  # its template has none
    messages = conversation(name, [*system, *LONG])
    asked = routed_text(messages, rule)
    assert (
        asked == {"last_user": "Why?", "first_user": "Hi there", "all_user": f"Hi there\n{ASKED}\nWhy?"}[rule]
    )
    assert (
        PromptReader(*TEMPLATES[name]).user_turn(rendered(name, [*system, *LONG], generation), rule) == asked
    )
    record = {"messages": [*({"role": role, "content": text} for role, text in [*system, *LONG]), ANSWER]}
    row = parse_row("a row", record)
    assert isinstance(row, Row)
    assert routed_text(row.prompt, rule) == asked


@pytest.mark.parametrize("rule", get_args(RoutedTextRule))
def test_a_prompt_that_ends_inside_a_turn_is_taken_as_it_is(rule: RoutedTextRule) -> None:
    prompt = rendered("chatml", SEVERAL) + "<|im_start|>user\nand then"
    assert PromptReader(*TEMPLATES["chatml"]).user_turn(prompt, rule) == prompt


@pytest.mark.parametrize("name", TEMPLATES)
def test_bos_and_trailing_space_may_be_missing(name: str) -> None:
    source, bos, eos = TEMPLATES[name]
    prompt = rendered(name, [("user", ASKED)]).removeprefix(bos or "").rstrip()
    assert PromptReader(source, bos, eos).user_turn(prompt) == ASKED


@pytest.mark.parametrize("name", ["instruction", "chatml", "llama-2", "parts"])
def test_a_system_text_is_not_routed(name: str) -> None:
    prompt = rendered(name, [("system", "Speak like a pirate."), ("user", ASKED)])
    assert "pirate" in prompt
    assert PromptReader(*TEMPLATES[name]).user_turn(prompt) == ASKED


def test_a_default_system_text_is_no_part_of_the_marker() -> None:
    by_hand = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert PromptReader(*TEMPLATES["chatml"]).user_turn(by_hand) == "Hi"


def test_an_answer_already_begun_is_not_routed() -> None:
    prompt = rendered("instruction", [("user", ASKED)]) + "Sure, the sorted list"
    assert PromptReader(*TEMPLATES["instruction"]).user_turn(prompt) == ASKED


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "prompt", ["", "def add(a, b):\n", "What is an ### Instruction: block?", "user\nuser\n"]
)
def test_a_raw_prompt_is_left_alone(name: str, prompt: str) -> None:
    assert PromptReader(*TEMPLATES[name]).user_turn(prompt) == prompt


@pytest.mark.parametrize(
    "template",
    [
        "{% if",
        "",
        "constant",
        "{{ messages[0]['content'] }}",
        "{{ raise_exception('never') }}",
        "{{ 1 / 0 }}",
        "{% for m in messages %}{{ m.content }}\n{% endfor %}",
        "{{ ().__class__.__mro__ }}",
    ],
)
def test_a_template_that_can_not_be_understood_changes_nothing(template: str) -> None:
    reader = PromptReader(template, "<s>", "</s>")
    printed_parts = "[{'type': 'text', 'text': 'a'}]\n"
    for prompt in ("a prompt", rendered("chatml", [("user", ASKED)]), printed_parts):
        assert reader.user_turn(prompt) == prompt


def test_templates_render_as_in_transformers(tmp_path: object) -> None:
    source = (
        "{% for m in messages %}\n  {% if loop.index > 3 %}{% break %}{% endif %}\n"
        "{% generation %}{{ m | tojson }}{% endgeneration %}\n{% endfor %}"
        "{{ bos_token }}{{ pad_token is defined }}{{ tools is none }}"
    )
    from tokenizers import Tokenizer, models

    theirs = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})), bos_token="<b>")
    messages = [user('<é & "quotes">'), {"role": "assistant", "content": "b"}, user("c"), user("d")]
    ours = ChatTemplate(source, "<b>", None).render(messages, add_generation_prompt=True)
    expected = theirs.apply_chat_template(
        messages, chat_template=source, tokenize=False, add_generation_prompt=True
    )
    assert ours == expected
