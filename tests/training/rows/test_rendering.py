"""Token ids: the prompt's are what serving makes, the completion's end with the turn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from training.errors import RecipeError
from training.rows.reading import Row, Unusable
from training.rows.rendering import DEFAULT_TEMPLATE, TokenRow, prompt_ids, render, use_chat_template

ROW = Row("rows.jsonl:3", ({"role": "user", "content": "What is 2 plus 3?"},), "It is 5.", "sums")
TALK = Row(
    "rows.jsonl:4",
    (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "Name a colour."},
    ),
    "Blue",
)
OPENING = "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
ENDING = "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"


def rendered(tokenizer: PreTrainedTokenizerBase, row: Row = ROW, max_length: int = 512) -> TokenRow:
    found = render(tokenizer, row, "last_user", max_length)
    assert isinstance(found, TokenRow), found
    return found


@pytest.mark.parametrize("row", [ROW, TALK])
def test_a_row_is_its_prompt_its_completion_and_the_end_of_the_turn(
    tokenizer: PreTrainedTokenizerBase, row: Row
) -> None:
    found = rendered(tokenizer, row)
    served = tokenizer.apply_chat_template(list(row.prompt), add_generation_prompt=True, return_dict=False)
    assert list(found.input_ids[: found.prompt_length]) == served == prompt_ids(tokenizer, row.prompt)
    completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
    assert list(found.input_ids[found.prompt_length :]) == [*completion, tokenizer.eos_token_id]
    assert found.input_ids.count(tokenizer.bos_token_id) == 1
    assert found.input_ids[0] == tokenizer.bos_token_id
    assert (found.origin, found.source) == (row.origin, row.source)


def test_the_routed_text_is_the_prompts_and_never_the_response(tokenizer: PreTrainedTokenizerBase) -> None:
    assert rendered(tokenizer, TALK).routed_text == "Name a colour."
    assert "5" not in rendered(tokenizer).routed_text


def test_the_completion_alone_is_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    labels = rendered(tokenizer).labels
    learned = [label for label in labels if label != -100]
    assert tokenizer.decode(learned) == "It is 5.</s>"
    assert labels[: -len(learned)] == [-100] * (len(labels) - len(learned))


@pytest.mark.parametrize(
    ("closing", "completion"),
    [
        ("{{ eos_token }}", "It is 5.</s>"),
        ("{{ eos_token }}\n", "It is 5.</s>"),  # no model should have to write that newline
        ("{{ eos_token + '\\n\\n' }}", "It is 5.</s>"),
        ("", "It is 5.</s>"),  # or the model would never learn to stop
        ("\n", "It is 5.\n</s>"),
        (" END", "It is 5. END</s>"),
        ("<|system|>\n", "It is 5.<|system|>"),  # an end-of-turn token that is not the end of text
    ],
)
def test_however_a_template_closes_the_turn_the_model_learns_to_end_it(
    tokenizer: PreTrainedTokenizerBase, closing: str, completion: str
) -> None:
    tokenizer.chat_template = OPENING + closing + ENDING
    found = rendered(tokenizer)
    assert tokenizer.decode(found.input_ids[found.prompt_length :]) == completion


def test_a_generation_prompt_that_the_template_does_not_write_itself_is_refused(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = (
        OPENING + "{{ eos_token }}" + ENDING.replace("<|assistant|>", "<|assistant|>think:")
    )
    found = render(tokenizer, ROW, "last_user", 512)
    assert isinstance(found, Unusable)
    assert "opens the answer otherwise than it renders it later" in found.reason
    assert "<|assistant|>think:'" in found.reason
    assert "base.chat_template" in found.reason


def test_a_double_beginning_of_text_is_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = "{{ bos_token }}" + OPENING + ENDING
    with pytest.raises(RecipeError, match="beginning-of-text token twice"):
        rendered(tokenizer)


@pytest.mark.parametrize("word", ["<s>", "</s>"])
def test_a_row_that_speaks_of_a_special_token_does_not_blame_the_template(
    tokenizer: PreTrainedTokenizerBase, word: str
) -> None:
    """`<s>` is also HTML."""
    row = Row("x", ({"role": "user", "content": f"What does {word} mean in HTML?"},), "Struck out.")
    found = rendered(tokenizer, row)
    assert list(found.input_ids[: found.prompt_length]) == prompt_ids(tokenizer, row.prompt)


def test_a_row_too_long_is_unusable_with_both_numbers(tokenizer: PreTrainedTokenizerBase) -> None:
    length = len(rendered(tokenizer).input_ids)
    assert isinstance(render(tokenizer, ROW, "last_user", length), TokenRow)
    found = render(tokenizer, ROW, "last_user", length - 1)
    assert found == Unusable(
        "rows.jsonl:3",
        f"it has {length} tokens, more than the limit of {length - 1} (data.max_length, or what the base can read)",
    )


def test_a_conversation_that_the_template_refuses_is_unusable(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system, please') }}{% endif %}"
        + OPENING
        + ENDING
    )
    found = render(tokenizer, TALK, "last_user", 512)
    assert isinstance(found, Unusable)
    assert (found.origin, "no system, please" in found.reason) == (TALK.origin, True)
    assert isinstance(render(tokenizer, ROW, "last_user", 512), TokenRow)


def test_whose_template_is_used(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    own = tokenizer.chat_template
    assert use_chat_template(tokenizer, None) == own
    chosen = tmp_path / "mine.jinja"
    chosen.write_text(OPENING + ENDING)
    assert use_chat_template(tokenizer, chosen) == OPENING + ENDING == tokenizer.chat_template
    tokenizer.chat_template = None
    assert use_chat_template(tokenizer, None) == DEFAULT_TEMPLATE.read_text()
    with pytest.raises(RecipeError, match=r"base\.chat_template: .*nothere\.jinja can't be read"):
        use_chat_template(tokenizer, tmp_path / "nothere.jinja")


def test_our_template_over_a_tokenizer_that_has_none(shared: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(shared / "models" / "base-5m")
    assert not tokenizer.chat_template
    use_chat_template(tokenizer, None)
    for row in (ROW, TALK):
        found = rendered(tokenizer, row)
        assert list(found.input_ids[: found.prompt_length]) == prompt_ids(tokenizer, row.prompt)
        completion = tokenizer.decode(found.input_ids[found.prompt_length :])
        assert completion.strip() == row.completion + tokenizer.eos_token
        assert found.input_ids.count(tokenizer.bos_token_id) == 1
    prompt = tokenizer.decode(prompt_ids(tokenizer, TALK.prompt))
    assert prompt == (
        f"{tokenizer.bos_token}Be brief.\n\n### Instruction:\nHello\n\n### Response:\nHi!{tokenizer.eos_token}"
        "\n\n### Instruction:\nName a colour.\n\n### Response:\n"
    )
