"""How good a partition is, from inner products alone: cosines and gradient variance (equation 8, Theorem 2).

No gradient is needed: with H [n, n] the cosines and r [n] the norms, <g_i, g_j> = r_i H_ij r_j. For any set S of
m rows, Var(S) = E |g - mean|^2 = (sum_i <g_i, g_i>) / m - (sum_ij <g_i, g_j>) / m^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError

_ROUNDING = 1e-9  # a cluster's variance exceeds the whole's by more than this share of it, or it does not


def mean_cosines(gram: NDArray[np.float64], labels: NDArray[np.int64], k: int) -> list[list[float | None]]:
    """Mean cosine inside each cluster and between each pair: [K][K].

    `gram` [n, n] holds the cosines, `labels` [n] the clusters. A row's cosine with itself is left out, so a
    cluster of fewer than two rows has None inside; an empty one has None everywhere.
    """
    sums, counts = _block_sums(gram, labels, k)
    own = np.bincount(labels, weights=np.diag(gram), minlength=k)  # [K]
    pairs = np.outer(counts, counts)
    sums[np.diag_indices(k)] -= own
    pairs[np.diag_indices(k)] -= counts
    return [[float(sums[a, b] / pairs[a, b]) if pairs[a, b] else None for b in range(k)] for a in range(k)]


def gradient_variance(products: NDArray[np.float64], labels: NDArray[np.int64], k: int) -> dict[str, Any]:
    """Variance of the gradients before the partition and after it, from their inner products [n, n].

    Returns:
        whole: Var(D). clusters [K]: each Var(D_i), None where no row is. weighted: sum_i p_i Var(D_i); by the law
        of total variance it is at most `whole` (equation 10), and nothing bounds the single clusters.
        reduction: 1 - weighted / whole. at_random: the reduction that labels of the same sizes get on average when
        they are dealt out at random, (K - 1) / (n - 1). exceeding: the clusters above `whole`, which equation 5
        says can't be.

    """
    sums, counts = _block_sums(products, labels, k)
    squares = np.bincount(labels, weights=np.diag(products), minlength=k)  # [K] sums of squared norms
    n = int(counts.sum())
    whole = float(squares.sum() / n - sums.sum() / n**2)
    filled = counts > 0
    divisor = np.where(filled, counts, 1)
    clusters = squares / divisor - np.diag(sums) / divisor**2
    clusters = np.maximum(clusters, 0.0)  # of one row it is zero, up to rounding
    weighted = float((counts * clusters).sum() / n)
    return {
        "whole": whole,
        "clusters": [float(value) if found else None for value, found in zip(clusters, filled, strict=True)],
        "weighted": weighted,
        "reduction": 1 - weighted / whole if whole > 0 else 0.0,
        "at_random": float((filled.sum() - 1) / (n - 1)) if n > 1 else 0.0,
        "exceeding": [int(label) for label in np.flatnonzero(clusters > whole * (1 + _ROUNDING))],
    }


def cluster_quality(
    gram: NDArray[np.float64], norms: NDArray[np.float64], labels: NDArray[np.int64], k: int
) -> dict[str, Any]:
    """Cosines and variances of a partition of n rows into K clusters, as the report shows them.

    `gram` [n, n]: the cosines between the rows' gradients; `norms` [n]: of the raw gradients; `labels` [n]: in
    0..K-1. All three in the same order of rows. Everything returned can be written as JSON.

    Raises:
        TrainingError: the shapes don't fit together, or a value is not finite.

    """
    n = len(labels)
    if gram.shape != (n, n) or norms.shape != (n,) or n < 2:
        raise TrainingError(
            f"The quality of a partition needs cosines [n, n], norms [n] and labels [n] of at least two rows; "
            f"got {gram.shape}, {norms.shape} and {labels.shape}."
        )
    if not (np.isfinite(gram).all() and np.isfinite(norms).all()):
        raise TrainingError(
            "A gradient of the probe is not finite, so the partition's quality has no number."
        )
    if labels.min() < 0 or labels.max() >= k:
        raise TrainingError(f"Labels lie between {labels.min()} and {labels.max()}, outside 0..{k - 1}.")
    same = labels[:, None] == labels[None, :]  # [n, n]
    inside = same & ~np.eye(n, dtype=bool)
    return {
        "rows": n,
        "cluster_rows": np.bincount(labels, minlength=k).tolist(),
        "cosines": mean_cosines(gram, labels, k),
        "mean_inside": float(gram[inside].mean()) if inside.any() else None,
        "mean_between": float(gram[~same].mean()) if not same.all() else None,
        "unit": gradient_variance(gram, labels, k),
        "raw": gradient_variance(gram * np.outer(norms, norms), labels, k),
    }


def _block_sums(
    products: NDArray[np.float64], labels: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of the products over each pair of clusters [K, K], and the clusters' rows [K]."""
    member = np.zeros((len(labels), k))
    member[np.arange(len(labels)), labels] = 1.0  # [n, K]
    return member.T @ products @ member, np.bincount(labels, minlength=k)
