"""What Stage II holds at once, phase by phase: the terms behind `gradientspace plan`, as the code takes them."""

from __future__ import annotations

from dataclasses import dataclass

from training.memory.micro_batch import MicroBatchMemory
from training.memory.model_shape import ModelShape
from training.recipe import ClustersSection

_CENTROID_COPIES = (
    4  # as they began, at the epoch's beginning, now, and the product that their drift is read from
)
_LIFT_COPIES = 3  # of [K, d]: the sums, a block's part of them, their unit vectors
_GRAM_COPIES = 6  # of [n, n] float64: H, its eigenvectors and their workspace, distances, K-means
_PIECE_BYTES, _PIECE_ROWS = 1 << 28, 64  # of gradients written to disk, or compared, at once
_FIRST_BACKWARD = 16 << 20  # what PyTorch's libraries touch for the first time, measured


@dataclass(frozen=True)
class MemoryNeed:
    """What Stage II works on: the model, its micro-batches, the rows' counts, K, the number of processes."""

    shape: ModelShape
    micro_batch: MicroBatchMemory
    section: ClustersSection
    total: int
    train: int
    probe: int
    k: int
    processes: int
    resident: int
    """Bytes that the process holds before Stage II."""

    @property
    def gradient(self) -> int:
        """One row's gradient [d] float32, or one centroid."""
        return self.shape.gradient_bytes

    @property
    def model(self) -> int:
        """Base and adapter in float32."""
        return 4 * (self.shape.weights + self.shape.dimension)

    @property
    def batch(self) -> int:
        """This process's rows of one logical batch."""
        return -(-self.section.batch_rows // self.processes) * self.gradient

    @property
    def piece(self) -> int:
        """The rows that are written to disk, or compared, at once."""
        rows = min(_PIECE_ROWS, -(-self.total // self.processes))
        return max(1, min(rows, _PIECE_BYTES // self.gradient)) * self.gradient

    @property
    def touched(self) -> int:
        """Clusters that one batch can move."""
        return min(self.k, self.section.batch_rows)

    def cache(self, kind: str, processes: int | None = None) -> int:
        """The cluster cache of one process."""
        width = processes or self.processes
        if kind == "ring":
            return self.k * (self.section.cache_batches + 1) * self.gradient
        held = min(self.train, self.k * self.section.cache_batches * self.section.batch_rows)
        return -(-held // width) * self.gradient + 2 * self.k * self.gradient  # and the sums in float64

    def window(self, batches: int) -> int:
        """This process's rows of a look-ahead window."""
        rows = min(self.train, batches * self.section.batch_rows)
        return -(-rows // self.processes) * self.gradient

    def probe_blocks(self, rows: int) -> int:
        """Probe gradients held at once when a block has this many rows."""
        mine = -(-self.probe // self.processes)
        rounds = -(-mine // rows)
        blocks = (1 if rounds == 1 else 2) + (self.processes > 1)
        return blocks * min(rows, mine) * self.gradient

    def source(self, gradients: str) -> int:
        """What is needed to have gradients at all; from disk, the heap that computing them left."""
        if gradients == "disk":
            return self.micro_batch.heap
        return self.model + self.micro_batch.total + _FIRST_BACKWARD

    def phases(self, cache: str, gradients: str, look_ahead_batches: int, block_rows: int) -> dict[str, int]:
        """Bytes at the highest point of each phase, the process's own included."""
        base = self.resident + self.source(gradients)
        square = 4 * min(block_rows, self.probe) * self.shape.largest_factor
        probe = self.probe_blocks(block_rows) + square + _LIFT_COPIES * self.k * self.gradient
        changes = 4 * self.touched * self.gradient if cache == "exact" else self.batch + 2 * self.gradient
        found = {
            "probe": base + probe + _GRAM_COPIES * 8 * self.probe**2,
            "calibration": base
            + _CENTROID_COPIES * self.k * self.gradient
            + self.cache(cache)
            + changes
            + self.window(look_ahead_batches),
            "assignment": base + self.k * self.gradient + (self.piece if gradients == "disk" else 0),
        }
        if gradients == "disk":
            model = self.model + self.micro_batch.total + _FIRST_BACKWARD
            return {"gradients": self.resident + model + self.piece} | found
        return found
