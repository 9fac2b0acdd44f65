"""Both caches against plain lists: what they hold, what they drop, and that several processes share one."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.stand_ins.thread_world import together
from training.clusters.cache import ClusterCache, ExactCache, NoCache, RingCache
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

CPU = torch.device("cpu")
K, D = 3, 6
ALONE = World()


class Deques:
    """Section 5.3.2 word for word: the last `capacity` rows of each cluster."""

    def __init__(self, capacity: int) -> None:
        self.held: list[deque[Tensor]] = [deque(maxlen=capacity) for _ in range(K)]

    def insert(self, labels: NDArray[np.int64], unit: Tensor) -> None:
        for label, row in zip(labels.tolist(), unit, strict=True):
            self.held[label].append(row.double())

    def rows(self, label: int) -> list[Tensor]:
        return list(self.held[label])


class Slots:
    """The design's ring in plain lists: slots of rows, the next opens when one is full, the oldest goes whole."""

    def __init__(self, slots: int, slot_rows: int) -> None:
        self.slots, self.slot_rows = slots, slot_rows
        self.held: list[list[list[Tensor]]] = [[[]] for _ in range(K)]

    def insert(self, labels: NDArray[np.int64], unit: Tensor) -> None:
        for label, row in zip(labels.tolist(), unit, strict=True):
            ring = self.held[label]
            if len(ring[-1]) == self.slot_rows:
                ring.append([])
                del ring[: -self.slots]
            ring[-1].append(row.double())

    def rows(self, label: int) -> list[Tensor]:
        return [row for slot in self.held[label] for row in slot]


def batches(count: int, seed: int, most: int = 9) -> list[tuple[NDArray[np.int64], Tensor]]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        labels = random.integers(K, size=int(random.integers(1, most)))
        found.append((labels, torch.from_numpy(random.normal(size=(len(labels), D)).astype(np.float32))))
    return found


def everything(labels: NDArray[np.int64]) -> list[int]:
    return list(range(len(labels)))


def check(cache: ClusterCache, reference: Any, atol: float) -> None:
    for label in range(K):
        rows = reference.rows(label)
        if rows:
            found = cache.mean(label)
            assert found.dtype == torch.float32
            assert found.shape == (D,)
            assert torch.allclose(found.double(), torch.stack(rows).mean(0), atol=atol)


def compare(
    cache: ClusterCache, reference: Any, given: list[tuple[NDArray[np.int64], Tensor]], atol: float
) -> None:
    for labels, unit in given:
        cache.insert(labels, everything(labels), unit)
        reference.insert(labels, unit)
        check(cache, reference, atol)


@pytest.mark.parametrize("capacity", [1, 5, 32])
def test_the_exact_cache_holds_what_a_deque_holds(capacity: int) -> None:
    cache = ExactCache(K, capacity, D, CPU, ALONE)
    compare(cache, Deques(capacity), batches(150, capacity, most=25), atol=1e-7)


@pytest.mark.parametrize(("slots", "slot_rows"), [(1, 1), (1, 4), (2, 1), (2, 5), (3, 4), (8, 16)])
def test_the_ring_holds_what_lists_hold(slots: int, slot_rows: int) -> None:
    # Batches of up to 24 rows: one cluster's part may straddle slots, or run through the whole ring.
    cache = RingCache(K, slots, slot_rows, D, CPU, ALONE)
    compare(cache, Slots(slots, slot_rows), batches(150, slots, most=25), atol=1e-6)


def test_the_ring_keeps_between_one_slot_less_and_all_its_slots() -> None:
    cache = RingCache(1, 3, 4, 1, CPU, ALONE)
    held = []
    for number in range(30):
        cache.insert(np.zeros(1, dtype=np.int64), [0], torch.full((1, 1), float(number)))
        held.append(round(2 * (number - float(cache.mean(0)))) + 1)  # of consecutive numbers up to this one
    assert held[:12] == list(range(1, 13))
    assert held[12:20] == [9, 10, 11, 12] * 2  # (alpha - 1) |B| + 1 to alpha |B|
    assert min(held[12:]) == 9


def test_with_one_slot_the_ring_starts_over_when_it_is_full() -> None:
    cache = RingCache(1, 1, 2, 1, CPU, ALONE)
    means = []
    for number in range(5):
        cache.insert(np.zeros(1, dtype=np.int64), [0], torch.full((1, 1), float(number)))
        means.append(float(cache.mean(0)))
    assert means == [0.0, 0.5, 2.0, 2.5, 4.0]


def test_what_is_dropped_leaves_no_trace() -> None:
    """A huge gradient that has left must not have eaten the digits of those that stay."""
    cache = ExactCache(1, 2, 3, CPU, ALONE)
    zeros = np.zeros(2, dtype=np.int64)
    cache.insert(zeros[:1], [0], torch.full((1, 3), 1e6))
    small = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]])
    cache.insert(zeros, [0, 1], small)
    assert torch.allclose(cache.mean(0), small.mean(0), atol=1e-8)
    ring = RingCache(1, 2, 1, 3, CPU, ALONE)
    ring.insert(zeros[:1], [0], torch.full((1, 3), 1e6))
    ring.insert(zeros, [0, 1], small)
    assert torch.equal(ring.mean(0), small.sum(0) / 2)


@pytest.mark.parametrize("kind", ["exact", "ring"])
def test_the_rows_given_are_copied(kind: str) -> None:
    """The next batch may be computed into the same memory."""
    cache = make(kind)(ALONE)
    ones, rows = np.ones(2, dtype=np.int64), torch.ones(2, D)
    cache.insert(ones, [0, 1], rows)
    rows.zero_()
    cache.insert(ones, [0, 1], torch.full((2, D), 4.0))
    assert cache.mean(1).tolist() == [2.5] * D
    for _ in range(6):  # the first rows are dropped, as what they were
        cache.insert(ones, [0, 1], torch.full((2, D), 4.0))
    assert cache.mean(1).tolist() == [4.0] * D


def test_the_exact_caches_memory_is_taken_again() -> None:
    cache = ExactCache(1, 2, D, CPU, ALONE)
    for _ in range(50):
        cache.insert(np.zeros(3, dtype=np.int64), [0, 1, 2], torch.ones(3, D))
    assert len(cache._held) + len(cache._spare) <= 3


def make(kind: str) -> Callable[[World], ClusterCache]:
    if kind == "exact":
        return lambda world: ExactCache(K, 7, D, CPU, world)
    return lambda world: RingCache(K, 3, 4, D, CPU, world)


@pytest.mark.parametrize("kind", ["exact", "ring"])
@pytest.mark.parametrize("before", [0, 1, 13, 60])
def test_what_a_checkpoint_brings_back_goes_on_bit_for_bit(kind: str, before: int, tmp_path: Path) -> None:
    cache, given = make(kind)(ALONE), batches(100, 4)
    for labels, unit in given[:before]:
        cache.insert(labels, everything(labels), unit)
    facts, tensors = cache.saved_state()
    Checkpoint(tmp_path / "at", "digest", 0.0, ALONE).save(json.loads(json.dumps(facts)), tensors)
    kept = Checkpoint(tmp_path / "at", "digest", 0.0, ALONE).load()
    assert kept is not None
    restored = make(kind)(ALONE)
    restored.restore(kept.facts, kept.tensors)
    seen: set[int] = {int(label) for labels, _ in given[:before] for label in labels}
    for labels, unit in given[before:]:
        for each in (cache, restored):
            each.insert(labels, everything(labels), unit)
        seen |= {int(label) for label in labels}
        for label in seen:
            assert torch.equal(cache.mean(label), restored.mean(label))


@pytest.mark.parametrize("kind", ["exact", "ring"])
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_hold_one_cache(kind: str, size: int) -> None:
    given = batches(80, size, most=20)
    alone = make(kind)(ALONE)
    expected = []
    for labels, unit in given:
        alone.insert(labels, everything(labels), unit)
        expected.append({label: alone.mean(label) for label in np.unique(labels).tolist()})

    def work(world: World) -> list[dict[int, Tensor]]:
        cache, found = make(kind)(world), []
        owner = np.random.default_rng(
            1
        )  # the same in all: some batches are all one process's, some rows none's
        for labels, unit in given:
            mine = np.flatnonzero(owner.integers(size, size=len(labels)) == world.rank)
            cache.insert(labels, mine.tolist(), unit[mine])
            found.append({label: cache.mean(label) for label in np.unique(labels).tolist()})
        return found

    everyone = together(size, work)
    for found in everyone:
        for one, other in zip(found, expected, strict=True):
            for label, mean in other.items():
                assert torch.allclose(one[label], mean, atol=1e-6)
    for found in everyone[1:]:
        for one, other in zip(found, everyone[0], strict=True):
            assert all(torch.equal(one[label], other[label]) for label in other)


def test_only_the_batch_under_way_is_in_the_mean() -> None:
    cache = NoCache(World())
    cache.insert(np.array([0, 1, 0]), [0, 1, 2], torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, 2.0]]))
    assert cache.mean(0).tolist() == [1.0, 1.0]
    assert cache.mean(1).tolist() == [0.0, 4.0]
    cache.insert(np.array([0]), [0], torch.tensor([[8.0, 8.0]]))
    assert cache.mean(0).tolist() == [8.0, 8.0]
