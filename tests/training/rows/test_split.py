from __future__ import annotations

import pytest

from training.errors import RowsError
from training.recipe import SplitSection
from training.rows.split import split_rows


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
