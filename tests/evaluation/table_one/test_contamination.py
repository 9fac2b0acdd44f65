"""Thirteen words in a row."""

from __future__ import annotations

from evaluation.table_one.contamination import shared_grams

WORDS = [f"word{number}" for number in range(20)]


def test_thirteen_words_count_and_twelve_do_not() -> None:
    train = [" ".join(WORDS)]
    inside = "Before that: " + ", ".join(WORDS[3:16]).upper() + "!"
    assert shared_grams(train, [inside, " ".join([*WORDS[:12], "other", *WORDS[12:]]), ""]) == [1, 0, 0]


def test_a_run_must_stand_in_one_row() -> None:
    assert shared_grams([" ".join(WORDS[:10]), " ".join(WORDS[10:])], [" ".join(WORDS)]) == [0]
