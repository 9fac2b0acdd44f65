"""Short answers read out of written ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluation.answers.exact_match import is_match


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("So 8 * 2 = 16\n#### 16", "16", True),
        ("So 8 * 2 = 16\n#### 17", "16", False),
        ("#### 1,234", "1234", True),
        (r"It is $\boxed{\frac{1}{2}}$ and not \boxed{3}", "3", True),
        (r"It is $\boxed{\frac{1}{2}}.$", r"\frac{1}{2}", True),
        ("(1,344 + 723) / 2 = 1033.5 million", "1033.5 million", True),
        ("When amounts fall due.", "when amounts fall  due", True),
        ("16 or so", "16", False),
        ("", "16", False),
    ],
)
def test_answers(text: str, answer: str, right: bool) -> None:
    assert is_match(text, answer) is right


def test_every_written_answer_of_the_real_rows_comes_to_their_short_one(shared: Path) -> None:
    for name in ("gsm8k", "math", "finance_tatqa"):
        for line in (shared / "data" / f"{name}_test.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert is_match(row["output"], row["answer"]), row
