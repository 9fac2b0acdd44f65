"""The cache against a plain deque."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from training.centroid_cache import ExactCache

CPU = torch.device("cpu")


@pytest.mark.parametrize("capacity", [1, 5, 32])
def test_it_holds_what_a_deque_holds(capacity: int) -> None:
    random = np.random.default_rng(capacity)
    k, d = 3, 6
    cache = ExactCache(k, capacity, d, CPU)
    reference: list[deque[torch.Tensor]] = [deque(maxlen=capacity) for _ in range(k)]
    for _ in range(200):
        label, count = int(random.integers(k)), int(random.integers(1, 9))  # more than the capacity, at times
        rows = torch.from_numpy(random.normal(size=(count, d)).astype(np.float32))
        cache.insert(label, rows)
        reference[label].extend(rows)
        expected = torch.stack(list(reference[label])).double().mean(0)
        found = cache.mean(label)
        assert found.dtype == torch.float32
        assert found.shape == (d,)
        assert torch.allclose(found.double(), expected, atol=1e-7)


def test_what_is_dropped_leaves_no_trace() -> None:
    """A huge gradient that has left must not have eaten the digits of those that stay."""
    cache = ExactCache(1, 2, 3, CPU)
    cache.insert(0, torch.full((1, 3), 1e6))
    small = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    cache.insert(0, small)
    assert torch.allclose(cache.mean(0), small.mean(0), atol=1e-8)


def test_the_rows_given_are_copied() -> None:
    """Calibration normalises into the same memory batch after batch."""
    cache = ExactCache(2, 4, 2, CPU)
    rows = torch.ones(2, 2)
    cache.insert(1, rows)
    rows.zero_()
    cache.insert(1, torch.full((1, 2), 4.0))
    assert cache.mean(1).tolist() == [2.0, 2.0]
