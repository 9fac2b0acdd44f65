"""How each K fares when the probe is drawn again: everything is fitted anew on random halves of it.

Halves, not resamples with replacement: a row drawn twice would be its own nearest neighbour, which no clustering
of gradients survives.

The routed cosine says what clusters are for. An expert moves along the mean gradient of its cluster, so an unseen
row's loss falls, to first order, by its cosine with the mean of the cluster that it is *routed* to (times norms that
K does not change). One half is clustered and teaches a router from its prompts; the other half's rows are routed by
their prompts alone and measured. A row's own gradient plays no part in where it goes, so noise and more clusters can't
raise the figure by themselves; clusters that no prompt betrays lower it; and one cluster (K = 1) can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from training.clusters.silhouette_grid import best_of, silhouette_grid
from training.clusters.spherical_kmeans import Labels, Matrix, centroid_cosines, spectrum_of, spherical_kmeans

_STARTS = 3  # of spherical K-means on a half
_RIDGE = 1.0  # on standardised embeddings whose kernel has a mean diagonal of 1


@dataclass(frozen=True)
class Halves:
    """Figures of S random splits for each K tried.

    silhouettes [S, K]: of one half, the highest over the thresholds. routed [S, K]: mean cosine between an unseen
    row and the centroid it is routed to; one_cluster [S]: the same for K = 1. agreement [S, K]: adjusted Rand index
    between the two halves' partitions, each row sorted by both.
    """

    ks: tuple[int, ...]
    silhouettes: Matrix
    routed: Matrix
    one_cluster: Matrix
    agreement: Matrix


def split_in_halves(
    gram: Matrix, embeddings: Matrix, ks: Sequence[int], thresholds: Sequence[float], splits: int, seed: int
) -> Halves:
    """Split the probe at random, `splits` times, and fit every K on the halves.

    `gram` [n, n] are the cosines of the rows' gradients, `embeddings` [n, H] the router's encodings of their prompts.
    Each half must have more rows than the largest K.
    """
    n = len(gram)
    shuffler = np.random.default_rng(seed)
    silhouettes, routed, agreement = (np.zeros((splits, len(ks))) for _ in range(3))
    one_cluster = np.zeros(splits)
    for split in range(splits):
        order = shuffler.permutation(n)
        halves = [
            _Half(gram, embeddings, order[: n // 2], seed),
            _Half(gram, embeddings, order[n // 2 :], seed),
        ]
        grid = silhouette_grid(halves[0].gram, halves[0].spectrum, ks, thresholds, 1, seed)
        one_cluster[split], _ = _judge(halves, 1)
        for place, k in enumerate(ks):
            candidates = [candidate for candidate in grid if candidate.point.k == k]
            silhouettes[split, place] = best_of(candidates).point.silhouette
            routed[split, place], agreement[split, place] = _judge(halves, k)
    return Halves(tuple(ks), silhouettes, routed, one_cluster, agreement)


class _Half:
    """Half of the probe, clustered; the other half's rows are unseen."""

    def __init__(self, gram: Matrix, embeddings: Matrix, rows: Labels, seed: int) -> None:
        unseen = np.setdiff1d(np.arange(len(gram)), rows)
        self.rows = rows
        self.unseen = unseen
        self.seed = seed
        self.gram = np.ascontiguousarray(gram[np.ix_(rows, rows)])
        self.to_unseen = np.ascontiguousarray(gram[np.ix_(unseen, rows)])  # [u, m]
        self.spectrum = spectrum_of(self.gram)
        self.smoother = _ridge(embeddings[rows], embeddings[unseen])  # [u, m]

    def labels(self, k: int) -> Labels:
        """Labels [m] of this half's rows."""
        return spherical_kmeans(self.gram, self.spectrum, k, _STARTS, self.seed)

    def unseen_cosines(self, labels: Labels, k: int) -> Matrix:
        """Cosines [u, k] of the unseen rows with this half's centroids."""
        return centroid_cosines(self.to_unseen, self.gram, labels, k)

    def routes(self, labels: Labels, k: int) -> Labels:
        """Clusters [u] that a ridge regression on the labels names for the unseen rows' prompts."""
        shares = np.bincount(labels, minlength=k) / len(labels)  # [k]
        return np.asarray((self.smoother @ (np.eye(k)[labels] - shares) + shares).argmax(1))


def _judge(halves: Sequence[_Half], k: int) -> tuple[float, float]:
    """The routed cosine, a mean over all rows of both halves, and the agreement, for one K."""
    labels = [half.labels(k) for half in halves]
    cosines, agreements = [], []
    for half, own, others in zip(halves, labels, labels[::-1], strict=True):
        found = half.unseen_cosines(own, k)  # [u, k]
        cosines.append(found[np.arange(len(found)), half.routes(own, k)])
        other = halves[1] if half is halves[0] else halves[0]
        by_own_half = dict(zip(other.rows.tolist(), others.tolist(), strict=True))
        agreements.append(
            adjusted_rand_score([by_own_half[row] for row in half.unseen.tolist()], found.argmax(1))
        )
    return float(np.concatenate(cosines).mean()), float(np.mean(agreements))


def _ridge(known: Matrix, asked: Matrix) -> Matrix:
    """The matrix [u, m] that turns centred targets of the known rows [m] into predictions for the asked ones [u]."""
    scaler = StandardScaler().fit(known)
    known, asked = scaler.transform(known), scaler.transform(asked)
    width = known.shape[1]
    kernel = known @ known.T / width + _RIDGE * np.eye(len(known))
    return np.linalg.solve(kernel, known @ asked.T / width).T
