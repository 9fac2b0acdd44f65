from __future__ import annotations

import pytest

from training.errors import RowsError
from training.recipe import SplitSection
from training.rows.split import count_repeats, prompt_key, split_rows


def test_sizes_are_the_recipes() -> None:
    split = split_rows(20_000, SplitSection(), seed=0)
    assert len(split.validation) == 1000
    assert len(split.train) == 19_000
    assert len(split.warmup) == 950
    assert len(split.probe) == 950
    assert len(split_rows(100_000, SplitSection(), seed=0).probe) == 1024  # at most
    small = split_rows(1000, SplitSection(), seed=0)
    assert (len(small.validation), len(small.warmup), len(small.probe)) == (200, 40, 256)  # at least


def test_parts_are_disjoint_and_cover_every_row() -> None:
    split = split_rows(1000, SplitSection(), seed=3)
    assert sorted([*split.validation, *split.train]) == list(range(1000))
    assert set(split.warmup) | set(split.probe) <= set(split.train)  # both still take part in Stage II
    assert not set(split.warmup) & set(split.probe)
    for part in (split.validation, split.train, split.warmup, split.probe):
        assert len(set(part)) == len(part)


def test_the_seed_alone_decides() -> None:
    assert split_rows(1000, SplitSection(), seed=5) == split_rows(1000, SplitSection(), seed=5)
    other = split_rows(1000, SplitSection(), seed=6)
    assert set(other.validation) != set(split_rows(1000, SplitSection(), seed=5).validation)
    assert list(other.train) != sorted(other.train)


@pytest.mark.parametrize("count", [1, 150, 200, 460])
def test_too_few_rows_say_what_is_needed(count: int) -> None:
    with pytest.raises(RowsError) as caught:
        split_rows(count, SplitSection(), seed=0)
    message = str(caught.value)
    assert f"{count} rows are too few" in message
    assert "200 go to validation" in message
    assert "probe 256" in message
    assert "split.validation_at_least" in message


def test_just_enough_rows_do() -> None:
    section = SplitSection(validation_at_least=10, probe_at_least=20)
    split = split_rows(31, section, seed=0)
    assert (len(split.validation), len(split.train), len(split.warmup), len(split.probe)) == (10, 21, 1, 20)
    with pytest.raises(RowsError):
        split_rows(30, section, seed=0)


def test_rows_of_one_prompt_stand_on_one_side() -> None:
    prompts = [prompt_key(f"{'Add' if row % 2 else ' add'}  {row % 40}") for row in range(300)]
    split = split_rows(300, SplitSection(probe_at_least=8), seed=0, prompts=prompts)
    held_out, trained = ({prompts[row] for row in part} for part in (split.validation, split.train))
    assert held_out
    assert not held_out & trained
    assert 150 < len(split.validation) <= 200
    assert sorted([*split.validation, *split.train]) == list(range(300))
    repeats = count_repeats(prompts, ["a"] * 300)
    assert (repeats.prompts, repeats.exact) == (40, 260)
    assert "300 rows hold 40 distinct prompts; 260 rows repeat an earlier one" in str(repeats.line())


def test_without_repeats_the_draw_is_what_it_was() -> None:
    prompts = [str(row) for row in range(1000)]
    assert split_rows(1000, SplitSection(), 5, prompts) == split_rows(1000, SplitSection(), 5)
    assert count_repeats(prompts, prompts).line() is None


def test_one_prompt_can_not_be_held_out() -> None:
    with pytest.raises(RowsError, match="300 rows hold 1 distinct prompt, the rarest"):
        split_rows(300, SplitSection(probe_at_least=8), 0, ["same"] * 300)
