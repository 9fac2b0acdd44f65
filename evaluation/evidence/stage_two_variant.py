"""Stage II with one choice changed, run in the coordinates of the gradients' own span (section 5.3).

Rows with inner products <g_i, g_j> have coordinates in R^N with the very same inner products, and Stage II sees
nothing else of a gradient. So a variant takes the code that training takes, at the cost of N instead of d entries.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from training.clusters.assignment import ComparedRows, assign
from training.clusters.centroids import Movement, calibrate
from training.clusters.row_orders import InCoordinates
from training.clusters.silhouette_grid import best_of, lift_weights, silhouette_grid
from training.clusters.spherical_kmeans import member_weights, spectrum_of
from training.errors import RecipeError
from training.progress import ignore_progress
from training.recipe import ClustersSection
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

_NOWHERE = Path(os.devnull)  # it takes seconds: no checkpoint of it is kept

Start = Literal["lifted", "means", "random"]
Cache = Literal["exact", "ring", "none"]


@dataclass(frozen=True)
class Variant:
    """One way through Stage II.

    start: the lifted centroids of K-means in the SVD's subspace, the means of those clusters' members, or K random
    rows of the probe. unit: rows are scaled to length one, or left raw. beta None: the recipe's.
    """

    k: int
    start: Start = "lifted"
    cache: Cache = "exact"
    unit: bool = True
    beta: float | None = None


@dataclass(frozen=True)
class Clustered:
    """Labels [N] of all rows, clusters numbered by size, and the number of clusters that are left."""

    labels: NDArray[np.int64]
    k: int


class Span:
    """N rows in coordinates [N, N] of their own span.

    `train` are the places of those that calibration sees, `probe` of those it starts on.
    """

    def __init__(
        self,
        cosines: NDArray[np.float64],
        norms: NDArray[np.float64],
        train: Sequence[int],
        probe: Sequence[int],
    ) -> None:
        """Take cosines [N, N] and norms [N]; raises RecipeError where the probe has too few rows."""
        self.cosines, self.norms = cosines, norms
        self.train, self.probe = list(train), list(probe)
        self._unit = InCoordinates(torch.from_numpy(cosines))
        if len(self.probe) < 4:
            raise RecipeError(f"The probe has {len(self.probe)} rows, too few to start clusters on.")

    def partition(self, variant: Variant, section: ClustersSection, seed: int) -> Clustered:
        """Run Stage II over all rows; a cluster below `section.min_rows` is merged, as in training."""
        source = self._unit if variant.unit else _Raw(self._unit, self.norms)
        start = normalize(self._start(variant, section, seed), dim=1)
        chosen = section.model_copy(update={} if variant.beta is None else {"beta": variant.beta})
        # One batch at a time: nothing is computed, so nothing is gained by looking ahead.
        done = calibrate(
            source,
            self.train,
            start,
            chosen,
            Movement(variant.cache, 1),
            seed,
            Checkpoint(_NOWHERE, "", math.inf, World()),
            ignore_progress,
        )
        found = source.compare(range(len(self.norms)), done.centroids).cosines.numpy()
        if not variant.unit:
            found = found / np.maximum(self.norms, np.finfo(np.float64).tiny)[:, None]
        counted = np.zeros(len(found), dtype=bool)
        counted[self.train] = True
        whole = assign(ComparedRows(found, self.norms, np.zeros(len(found))), counted, section.min_rows)
        return Clustered(whole.labels, whole.k)

    def _start(self, variant: Variant, section: ClustersSection, seed: int) -> Tensor:
        """Centroids [K, N], not normalised."""
        rows = self._unit.vectors[self.probe].double()  # [n, N]
        if not variant.unit:
            rows *= torch.from_numpy(self.norms[self.probe])[:, None]
        if variant.start == "random":
            drawn = np.random.default_rng(seed).choice(len(rows), variant.k, replace=False)
            return rows[torch.from_numpy(drawn)].float()
        cosines = self.cosines[np.ix_(self.probe, self.probe)]
        spectrum = spectrum_of((rows @ rows.T).numpy())
        grid = silhouette_grid(cosines, spectrum, [variant.k], section.thresholds, section.n_init, seed)
        best = best_of(grid)
        weights = (
            lift_weights(best, spectrum)
            if variant.start == "lifted"
            else member_weights(best.labels, variant.k)
        )
        return (torch.from_numpy(weights).T @ rows).float()


class _Raw(InCoordinates):
    """The same rows at their own lengths: what calibration would see were rows not made unit vectors."""

    def __init__(self, unit: InCoordinates, norms: NDArray[np.float64]) -> None:
        self.vectors = unit.vectors * torch.from_numpy(norms).float()[:, None]
        self.device = unit.device
