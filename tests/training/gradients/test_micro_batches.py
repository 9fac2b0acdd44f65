from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from training.gradients.row_gradients import micro_batches

LENGTHS = np.random.default_rng(0).integers(1, 90, size=200).tolist()


@pytest.mark.parametrize("budget", [1, 50, 90, 300, 4096, 1 << 20])
def test_every_place_once_and_no_batch_over_the_budget(budget: int) -> None:
    batches = micro_batches(LENGTHS, budget)
    assert sorted(place for batch in batches for place in batch) == list(range(len(LENGTHS)))
    for batch in batches:
        padded = len(batch) * max(LENGTHS[place] for place in batch)
        assert padded <= budget or len(batch) == 1


def test_rows_of_like_length_stand_together() -> None:
    ends = [(LENGTHS[batch[0]], LENGTHS[batch[-1]]) for batch in micro_batches(LENGTHS, 300)]
    assert all(shortest <= longest for shortest, longest in ends)
    assert all(one[1] <= following[0] for one, following in pairwise(ends))


def test_batches_are_filled() -> None:
    assert [len(batch) for batch in micro_batches([10] * 10, 40)] == [4, 4, 2]
    assert micro_batches([5, 5, 5], 1) == [[0], [1], [2]]
    assert micro_batches([], 100) == []
