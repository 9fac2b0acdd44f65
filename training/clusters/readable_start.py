"""Readable clusters of rows whose cosines are all known: where calibration with `clusters.readable` starts from (ours).

The probe's Gram matrix is at hand, so here a row's own part can be taken out of its cluster's centroid, and turns cost
next to nothing: they go on until hardly a row moves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.clusters.spherical_kmeans import Labels, Matrix

_MOST_TURNS = 30
_SETTLED = 0.002  # share of rows that still moved
_TINIEST = 1e-9  # squared length of a sum of gradients, below which it is no direction


def readable_clusters(
    gram: Matrix, start: Labels, k: int, chances: Callable[[Labels], NDArray[np.floating]], weight: float
) -> Labels:
    """From labels `start` [n], in turn assign rows and average clusters; return the labels [n].

    `gram` [n, n] are the rows' cosines. Row i goes to the k of the largest cos(g_i, c_k) + weight * log p(k | x_i),
    where the mean c_k of its own cluster leaves it out, and `chances` gives log p [n, k] for the labels of the turn
    before, from heads that have not seen the row. A turn that would empty a cluster is not taken.
    """
    labels = start
    for _ in range(_MOST_TURNS):
        scores = _cosines_without_own(gram, labels, k) + weight * chances(labels)
        fresh = scores.argmax(1).astype(np.int64)
        if len(np.unique(fresh)) < k:
            break
        moved, labels = float((fresh != labels).mean()), fresh
        if moved <= _SETTLED:
            break
    return labels


def _cosines_without_own(gram: Matrix, labels: Labels, k: int) -> Matrix:
    """Cosines [n, k] of rows with the sums of the clusters' members, each row left out of its own."""
    rows, members = np.arange(len(gram)), np.eye(k)[labels]  # [n, k]
    products = gram @ members  # g_i . s_k, the sum of cluster k
    squares = np.einsum("nk,nk->k", members, products)  # |s_k|^2
    squared = np.repeat(squares[None], len(rows), axis=0)
    squared[rows, labels] += 1 - 2 * products[rows, labels]
    products[rows, labels] -= 1
    return np.asarray(np.where(squared > _TINIEST, products, 0) / np.sqrt(squared.clip(_TINIEST)))
