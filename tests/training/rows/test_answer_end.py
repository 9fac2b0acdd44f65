"""What answers end with: the same from rendered rows and from the template alone."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from bundle.manifest import AnswerEnd
from training.rows.answer_end import answer_end_of, answer_end_of_template, described
from training.rows.reading import Row
from training.rows.rendering import TokenRow, render

PAD, EOS, SYSTEM = 0, 2, 3
TURN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
OPEN = "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
ROWS = [
    Row("rows.jsonl:1", ({"role": "user", "content": "Add 2 and 3."},), "It is 5."),
    Row("rows.jsonl:2", ({"role": "user", "content": "Name a colour."},), "Blue."),
]


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ("{{ eos_token }}", AnswerEnd(token_ids=(EOS,))),
        ("", AnswerEnd(token_ids=(EOS,))),
        ("</s>\n", AnswerEnd(token_ids=(EOS,))),
        ("<|system|>", AnswerEnd(token_ids=(SYSTEM,))),
        ("\n<|system|>\n\n", AnswerEnd(token_ids=(SYSTEM,))),
        ("{{ '\\n### End\\n' }}", AnswerEnd(token_ids=(EOS,), text="\n### End\n")),
        ("[over]<|system|>", AnswerEnd(token_ids=(SYSTEM,), text="[over]")),
        ("<|system|>[over]", AnswerEnd(token_ids=(EOS,), text="[over]")),
    ],
)
def test_rows_and_template_say_the_same(
    tokenizer: PreTrainedTokenizerBase, behind: str, expected: AnswerEnd
) -> None:
    tokenizer.chat_template = TURN + "{% if m.role == 'assistant' %}" + behind + "{% endif %}" + OPEN
    rendered = [render(tokenizer, row, "last_user", 512) for row in ROWS]
    rows = [row for row in rendered if isinstance(row, TokenRow)]
    assert len(rows) == len(ROWS)
    assert answer_end_of(tokenizer, rows) == answer_end_of_template(tokenizer) == expected


def test_a_literal_end_that_is_not_the_bases_own(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = "<pad>"
    tokenizer.chat_template = TURN + "{% if m.role == 'assistant' %}</s>{% endif %}" + OPEN
    end = answer_end_of_template(tokenizer)
    assert end.token_ids == (EOS,)
    assert described(tokenizer, end) == "</s> (the base's end-of-text token is <pad>)"


def test_rows_that_end_in_two_ways(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [TokenRow("", None, "", (7, 8, 9, token), 2) for token in (SYSTEM, EOS, SYSTEM)]
    assert answer_end_of(tokenizer, rows).token_ids == (SYSTEM, EOS)


@pytest.mark.parametrize("template", ["{{ messages[0].content }}", "{{ raise_exception('no') }}", "{% for"])
def test_a_template_that_shows_no_answer_leaves_the_bases_own_end(
    tokenizer: PreTrainedTokenizerBase, template: str
) -> None:
    tokenizer.chat_template = template
    assert answer_end_of_template(tokenizer) == AnswerEnd(token_ids=(EOS,))
