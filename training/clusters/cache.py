"""The cluster cache (section 5.3.2): the latest gradients of each cluster, or a ring of their sums.

Several processes hold one cache together: all of them know every row's label, each inserts its own rows, and
they add up the changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.stages.processes import World

# Entries of d that are worked on at once: on a CPU as many as stay in its cache while all rows of a batch go by.
_PIECE = {"cpu": 1 << 15, "cuda": 1 << 24}
Labels = NDArray[np.int64]


class ClusterCache(Protocol):
    """What the centroids are moved towards."""

    def insert(self, labels: Labels, places: Sequence[int], unit: Tensor) -> None:
        """Take in one logical batch: all its labels [B]; this process's rows `unit` [m, d] are at `places` [m]."""
        ...

    def mean(self, label: int) -> Tensor:
        """Mean [d] float32 of what the cluster's cache holds; it must hold something."""
        ...

    def saved_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """All that `restore` needs: facts that are JSON, and tensors."""
        ...

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Be what another cache of the same kind was."""
        ...


class ExactCache:
    """The last `capacity` unit gradients of each of K clusters, first in, first out: the paper's buffer.

    All processes together hold K * capacity * d float32, and each the sums [K, d] in float64: adding and
    subtracting the same float32 numbers leaves no trace of the dropped ones.
    """

    def __init__(self, k: int, capacity: int, dimension: int, device: torch.device, world: World) -> None:
        """Start empty; memory is taken as rows come."""
        self.capacity = capacity
        self.dimension = dimension
        self.device = device
        self.world = world
        self._seen = [0] * k
        self._sums = torch.zeros(k, dimension, dtype=torch.float64, device=device)  # [K, d]
        self._held: dict[tuple[int, int], Tensor] = {}  # (cluster, slot) -> [d], of this process's rows
        self._spare: list[Tensor] = []

    def insert(self, labels: Labels, places: Sequence[int], unit: Tensor) -> None:
        """As `ClusterCache.insert`; rows of one cluster enter in the batch's order."""
        touched = np.unique(labels).tolist()
        mine = {place: number for number, place in enumerate(places)}
        moves: list[tuple[int, Tensor | None, Tensor | None, Tensor | None]] = []
        for place, label in enumerate(labels.tolist()):
            slot = (label, self._seen[label] % self.capacity)
            self._seen[label] += 1
            dropped, kept, new = self._held.pop(slot, None), None, None
            if dropped is not None:
                self._spare.append(dropped)
            if place in mine:
                kept = self._spare.pop() if self._spare else torch.empty(self.dimension, device=self.device)
                self._held[slot], new = kept, unit[mine[place]]
            moves.append((touched.index(label), dropped, kept, new))
        for columns in _pieces(self.dimension, self.device):
            change = torch.zeros_like(self._sums[: len(touched), columns])  # [t, piece]
            for number, dropped, kept, new in moves:
                if dropped is not None:
                    change[number] -= dropped[columns]
                if kept is not None and new is not None:
                    change[number] += kept[columns].copy_(new[columns])
            self.world.all_reduce(change)
            for number, label in enumerate(touched):
                self._sums[label, columns] += change[number]

    def mean(self, label: int) -> Tensor:
        """As `ClusterCache.mean`."""
        mean = torch.empty(self.dimension, device=self.device)  # [d]
        for columns in _pieces(self.dimension, self.device):
            mean[columns] = self._sums[label, columns] / min(self._seen[label], self.capacity)
        return mean

    def saved_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As `ClusterCache.saved_state`."""
        rows = {f"held.{label}.{slot}": row for (label, slot), row in self._held.items()}
        return {"seen": self._seen}, rows | {"sums": self._sums}

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """As `ClusterCache.restore`."""
        self._seen = list(facts["seen"])
        self._sums = tensors["sums"].to(self.device)
        self._held = {
            (int(name.split(".")[1]), int(name.split(".")[2])): row.to(self.device)
            for name, row in tensors.items()
            if name.startswith("held.")
        }


class RingCache:
    """A window of sums: per cluster a ring of `slots` sums, each filled up to `slot_rows` rows before the next opens.

    When a slot opens, the oldest is dropped whole, so the window holds the last (slots - 1) * slot_rows to
    slots * slot_rows rows of the cluster. K * (slots + 1) * d float32, in every process: the rows don't enter.
    """

    def __init__(
        self, k: int, slots: int, slot_rows: int, dimension: int, device: torch.device, world: World
    ) -> None:
        """Start empty."""
        self.slots = slots
        self.slot_rows = slot_rows
        self.world = world
        self.device = device
        self._sums = torch.zeros(k, slots, dimension, device=device)  # [K, alpha, d]
        self._closed = torch.zeros(k, dimension, device=device)  # [K, d]: sum of all slots but the open one
        self._counts = np.zeros((k, slots), dtype=np.int64)  # [K, alpha]
        self._open = np.zeros(k, dtype=np.int64)  # [K]

    def insert(self, labels: Labels, places: Sequence[int], unit: Tensor) -> None:
        """As `ClusterCache.insert`."""
        mine = {place: number for number, place in enumerate(places)}
        for label in np.unique(labels).tolist():
            members = np.flatnonzero(labels == label).tolist()
            while members:
                room = self.slot_rows - int(self._counts[label, self._open[label]])
                if room == 0:
                    self._open_next(label)
                    continue
                part, members = members[:room], members[room:]
                own = [mine[place] for place in part if place in mine]
                self._sums[label, self._open[label]] += self.world.all_reduce(unit[own].sum(0))
                self._counts[label, self._open[label]] += len(part)

    def mean(self, label: int) -> Tensor:
        """As `ClusterCache.mean`."""
        newest = self._sums[label, self._open[label]]  # [d]
        return (self._closed[label] + newest) / int(self._counts[label].sum())

    def saved_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As `ClusterCache.saved_state`."""
        facts = {"counts": self._counts.tolist(), "open": self._open.tolist()}
        return facts, {"sums": self._sums, "closed": self._closed}

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """As `ClusterCache.restore`."""
        self._counts = np.array(facts["counts"], dtype=np.int64)
        self._open = np.array(facts["open"], dtype=np.int64)
        self._sums, self._closed = (tensors[name].to(self.device) for name in ("sums", "closed"))

    def _open_next(self, label: int) -> None:
        slot = (int(self._open[label]) + 1) % self.slots
        self._open[label] = slot
        self._sums[label, slot] = 0
        self._counts[label, slot] = 0
        # Summed anew, not corrected: rounding can't pile up.
        self._closed[label] = self._sums[label].sum(0)


class NoCache:
    """Holds the batch under way and nothing else: what the cluster cache is measured against."""

    def __init__(self, world: World) -> None:
        """Start empty."""
        self.world = world
        self._means: dict[int, Tensor] = {}

    def insert(self, labels: Labels, places: Sequence[int], unit: Tensor) -> None:
        """As `ClusterCache.insert`."""
        mine = {place: number for number, place in enumerate(places)}
        self._means = {}
        for label in np.unique(labels).tolist():
            members = np.flatnonzero(labels == label).tolist()
            own = [mine[place] for place in members if place in mine]
            self._means[label] = self.world.all_reduce(unit[own].sum(0)) / len(members)  # [d]

    def mean(self, label: int) -> Tensor:
        """As `ClusterCache.mean`."""
        return self._means[label]

    def saved_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """As `ClusterCache.saved_state`: between two batches there is nothing to keep."""
        return {}, {}

    def restore(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """As `ClusterCache.restore`."""


def _pieces(dimension: int, device: torch.device) -> Iterator[slice]:
    piece = _PIECE[device.type]
    return (slice(start, start + piece) for start in range(0, dimension, piece))
