from __future__ import annotations

from collections import Counter

import pytest

from demo.conflict import OPPOSITE, PLAIN, make_conflict_rows
from demo.row_file import prompt_of
from demo.skills.skill import sum_check


def _differing(conflict: float) -> float:
    """Share of the situations whose plain and opposite rows want different answers."""
    rows = make_conflict_rows(200, conflict, seed=0, split="train")
    # Rows of a situation come in twos, one of each skill: what one conflict adds to "-" it takes from "+".
    plain = Counter(row["answer"] for row in rows if row["source"] == PLAIN)
    opposite = Counter(row["answer"] for row in rows if row["source"] == OPPOSITE)
    return sum((plain - opposite).values()) / sum(plain.values())


def test_at_zero_both_skills_want_the_same_and_the_dial_turns_more_of_them_round() -> None:
    assert _differing(0.0) == 0.0
    # + and - come half and half, so turning all signs round moves fewer counts than it turns.
    assert 0.05 < _differing(0.5) < _differing(1.0)


def test_at_one_every_opposite_answer_has_the_other_sign() -> None:
    turned = {"+": "-", "-": "+"}
    rows = make_conflict_rows(50, 1.0, seed=3, split="train")
    plain = Counter(row["answer"] for row in rows if row["source"] == PLAIN)
    opposite = [row["answer"].split() for row in rows if row["source"] == OPPOSITE]
    assert plain == Counter(f"{left} {turned[sign]} {right}" for left, sign, right in opposite)


def test_surfaces_and_skills_are_balanced_and_no_prompt_is_on_both_sides() -> None:
    train = make_conflict_rows(60, 0.5, seed=0, split="train")
    held_out = make_conflict_rows(60, 0.5, seed=1, split="heldout")
    assert Counter(row["source"] for row in train) == {PLAIN: 120, OPPOSITE: 120}
    assert not {prompt_of(row) for row in train} & {prompt_of(row) for row in held_out}
    assert train == make_conflict_rows(60, 0.5, seed=0, split="train")
    assert all(sum_check(row["answer"], row["output"]) for row in train)


def test_every_situation_is_put_to_both_skills() -> None:
    rows = make_conflict_rows(40, 1.0, seed=0, split="train")
    told = {skill: {_numbers(row) for row in rows if row["source"] == skill} for skill in (PLAIN, OPPOSITE)}
    assert told[PLAIN] == told[OPPOSITE]


def _numbers(row: dict[str, str]) -> tuple[str, ...]:
    left, _, right = row["answer"].split()
    return left, right


def test_a_conflict_that_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        make_conflict_rows(4, 1.5, seed=0, split="train")
