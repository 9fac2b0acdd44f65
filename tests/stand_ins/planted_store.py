"""Made-up gradients of rows of several lengths, and stores to fill with them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.gradients.store import StoredGradients
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow
from training.stages.processes import World

N, D = 150, 1100  # a row doesn't end where a page does
LENGTHS = np.random.default_rng(5).integers(4, 40, size=N).tolist()
ROWS = [TokenRow(str(row), None, "", (6,) * length, 1) for row, length in enumerate(LENGTHS)]
BY_LENGTH = sorted(range(N), key=lambda row: (LENGTHS[row], row))


@dataclass
class Part:
    """As `Factor`, without its module."""

    start: int
    stop: int
    is_b: bool


@dataclass
class Planted:
    """Stands in for RowGradients: made-up gradients, by the number in a row's origin. Dies after some calls."""

    dies_after: int = 10**9
    gradients: Tensor = field(default_factory=lambda: GRADIENTS)
    calls: list[list[int]] = field(default_factory=list)
    factors: tuple[Part, ...] = (
        Part(0, 300, False),
        Part(300, 500, True),
        Part(500, 600, False),
        Part(600, D, True),
    )

    def whole(self, rows: Sequence[TokenRow], advance: Advance = ignore_progress) -> Tensor:
        if len(self.calls) == self.dies_after:
            raise KeyboardInterrupt
        self.calls.append([int(row.origin) for row in rows])
        advance(len(rows))
        return self.gradients[self.calls[-1]].clone()

    @property
    def computed(self) -> list[int]:
        return [row for call in self.calls for row in call]


GRADIENTS = torch.randn(N, D, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 3, N)[:, None]
UNIT = normalize(GRADIENTS, dim=1)


def opened(folder: Path, digest: str = "soup", world: World | None = None) -> StoredGradients:
    return StoredGradients(folder / "gradients", digest, LENGTHS, D, world or World())


def fill(stored: StoredGradients, source: Planted | None = None) -> Planted:
    source = source or Planted()
    stored.fill(source, ROWS, ignore_progress)  # type: ignore[arg-type]
    return source


def filled(folder: Path) -> StoredGradients:
    stored = opened(folder)
    fill(stored)
    return stored


def file_of(stored: StoredGradients, name: str = "gradients.f32") -> Path:
    return stored.folder / name


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))
