"""Where Stage II gets unit gradients from: computed when they are asked for, or kept on disk.

The weights are frozen, so a row's gradient is a constant (section 5.3): it makes no difference to any label which
of the two it is, only to time and space.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.errors import TrainingError
from training.gradients.row_gradients import RowGradients
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow
from training.stages.processes import World


@dataclass(frozen=True)
class Compared:
    """Rows [m] against K centroids: cosines [m, K], norms of the raw gradients [m], the share of B in them [m]."""

    cosines: Tensor
    norm: Tensor
    share_b: Tensor


class UnitGradients(Protocol):
    """Gradients of length one, by the numbers of their rows in the run."""

    @property
    def dimension(self) -> int:
        """d, the entries of one gradient."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the gradients appear."""
        ...

    def owners(self, rows: Sequence[int]) -> list[int]:
        """The rank that gives each of these rows; every process gets the same answer."""
        ...

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        """Unit gradients [m, d] float32 of this process's rows."""
        ...

    def compare(self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress) -> Compared:
        """Compare this process's rows with unit centroids [K, d]."""
        ...


class Recomputed:
    """Computes a row's gradient each time it is asked for, and keeps none."""

    def __init__(self, source: RowGradients, rows: Sequence[TokenRow], world: World) -> None:
        """Give the gradients of `rows`, all rows of the run."""
        self.source = source
        self.rows = rows
        self.world = world
        self.dimension = source.dimension
        self.device = source.device

    def owners(self, rows: Sequence[int]) -> list[int]:
        """As `UnitGradients.owners`: dealt out by length, whoever had them before."""
        return self.world.shares([len(self.rows[row].input_ids) for row in rows])

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        """As `UnitGradients.unit`.

        Raises:
            TrainingError: a row's loss or gradient is not a number.

        """
        picked = [self.rows[row] for row in rows]
        gradients = self.source.whole(picked, advance)  # [m, d]
        check_norms(make_unit_(gradients), picked)
        return gradients

    def compare(self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress) -> Compared:
        """As `UnitGradients.compare`."""
        picked = [self.rows[row] for row in rows]
        found = self.source.contracted(picked, centroids, advance)
        squared = found.squared_norm_a + found.squared_norm_b  # [m]
        check_norms(squared, picked)
        # The tiniest divisor: a zero gradient has cosine 0 to everything.
        divisor = squared.clamp_min(torch.finfo(squared.dtype).tiny)
        return Compared(
            cosines=found.products.double() / divisor.sqrt()[:, None],
            norm=squared.sqrt(),
            share_b=found.squared_norm_b / divisor,
        )


def make_unit_(vectors: Tensor) -> Tensor:
    """Make vectors [m, d] unit vectors in place and return their norms [m]; a zero vector stays zero.

    Not by torch's norm: on a CPU it adds float32 squares up one after the other, and at d = 80 million it is 0.8 %
    too small. Its sum adds in pairs. One vector at a time: the squares need memory.
    """
    norms = (
        torch.stack([vector.square().sum().sqrt() for vector in vectors]) if len(vectors) else vectors[:, 0]
    )
    for vector, norm in zip(vectors, norms, strict=True):
        vector.div_(norm.clamp_min(1e-12))
    return norms


def check_norms(norms: Tensor, rows: Sequence[TokenRow]) -> None:
    """Refuse gradients that are no numbers: one of them would spoil the centroids for good.

    Raises:
        TrainingError: names the first such row.

    """
    finite = torch.isfinite(norms)
    if not bool(finite.all()):
        row = rows[int((~finite).nonzero()[0])]
        raise TrainingError(
            f"Row {row.origin}: its loss is a number, but its gradient is not. Take the row out, or lower "
            "warmup.learning_rate if many rows do this."
        )
