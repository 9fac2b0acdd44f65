"""Online centroid calibration: assign, remember, move (section 5.3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from training.centroid_cache import ExactCache
from training.progress import Advance
from training.recipe import ClustersSection
from training.rendering import TokenRow
from training.row_gradients import RowGradients


@dataclass(frozen=True)
class Epoch:
    """What one pass over the rows changed."""

    drift: float  # the largest 1 - cosine between a centroid and itself an epoch before
    churn: float  # share of rows whose cluster changed against the epoch before
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Calibrated:
    """The final centroids [K, d], unit float32, and how they got there."""

    centroids: Tensor
    epochs: tuple[Epoch, ...]
    converged: bool


def calibrate(
    source: RowGradients,
    rows: Sequence[TokenRow],
    start: Tensor,
    section: ClustersSection,
    seed: int,
    advance: Advance,
) -> Calibrated:
    """Refine unit centroids [K, d] over seeded shuffles of the rows until they hold still.

    For each logical batch of |B| rows: every row goes to the centroid of the largest cosine; its unit gradient
    enters that cluster's cache; each cluster that got a row moves, c <- beta c + (1 - beta) mean(cache), and is
    made a unit vector again. The batch, not the micro-batches inside it, is what labels depend on.
    """
    centroids = start.clone()
    k, dimension = centroids.shape
    cache = ExactCache(k, section.cache_batches * section.batch_rows, dimension, centroids.device)
    shuffler = np.random.default_rng(seed)
    labels = np.full(len(rows), -1)
    epochs: list[Epoch] = []
    for _ in range(section.max_epochs):
        before, labels_before = centroids.clone(), labels.copy()
        order = shuffler.permutation(len(rows))
        for first in range(0, len(rows), section.batch_rows):
            batch = order[first : first + section.batch_rows]
            gradients = source.whole([rows[row] for row in batch], advance)  # [|B|, d]
            unit = normalize(gradients, dim=1, out=gradients)
            nearest = (unit @ centroids.T).argmax(1)  # [|B|]
            labels[batch] = nearest.cpu().numpy()
            for label in nearest.unique().tolist():
                cache.insert(label, unit[nearest == label])
                moved = section.beta * centroids[label] + (1 - section.beta) * cache.mean(label)  # [d]
                centroids[label] = normalize(moved, dim=0)
        drift = float((1 - (centroids * before).sum(1)).max())
        churn = float((labels != labels_before).mean())
        epochs.append(Epoch(drift, churn, tuple(np.bincount(labels, minlength=k).tolist())))
        if drift < section.max_drift and churn < section.max_churn:
            return Calibrated(centroids, tuple(epochs), converged=True)
    return Calibrated(centroids, tuple(epochs), converged=False)
