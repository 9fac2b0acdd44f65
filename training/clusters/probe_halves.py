"""How each K fares when the probe is drawn again: everything is fitted anew on random halves of it.

Halves, not resamples with replacement: a row drawn twice would be its own nearest neighbour, which no clustering
of gradients survives.

The routed cosine says what clusters are for. An expert moves along the mean gradient of its cluster, so an unseen
row's loss falls, to first order, by its cosine with the mean of the cluster that it is *routed* to (times norms that
K does not change). One half is clustered and teaches a router from its prompts; the other half's rows are routed by
their prompts alone and measured. A row's own gradient plays no part in where it goes, so noise and more clusters can't
raise the figure by themselves; clusters that no prompt betrays lower it; and one cluster (K = 1) can be compared.

Clusters to be readable (`clusters.readable`) have two starts: clusters of gradients and clusters of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from training.clusters.readable import Prompts, log_chances
from training.clusters.readable_start import readable_clusters
from training.clusters.silhouette_grid import best_of, silhouette_grid
from training.clusters.spherical_kmeans import Labels, Matrix, centroid_cosines, spectrum_of, spherical_kmeans

Start = Literal["gradients", "text"]

_STARTS = 3  # of spherical K-means on a half
_RIDGE = 1.0  # on standardised embeddings whose kernel has a mean diagonal of 1


@dataclass(frozen=True)
class Halves:
    """Figures of S random splits for each K tried.

    silhouettes [S, K]: of one half, the highest over the thresholds. routed [S, K]: mean cosine between an unseen
    row and the centroid it is routed to, for the start in `starts` [K], which has the higher mean; one_cluster [S]:
    the same for K = 1; text [S, K]: the same for K-means on prompts alone. agreement [S, K]: adjusted Rand index
    between the two halves' partitions, each row sorted by both.
    """

    ks: tuple[int, ...]
    silhouettes: Matrix
    routed: Matrix
    one_cluster: Matrix
    text: Matrix
    agreement: Matrix
    starts: tuple[Start, ...]


def split_in_halves(
    gram: Matrix,
    prompts: Prompts,
    ks: Sequence[int],
    thresholds: Sequence[float],
    splits: int,
    seed: int,
    readable: float,
) -> Halves:
    """Split the probe at random, `splits` times, and fit every K on the halves.

    `gram` [n, n] are the cosines of the rows' gradients, `prompts` [n] their prompts, `readable` the weight of what
    these say; with 0 gradients are the one start. Each half must have more rows than the largest K.
    """
    n = len(gram)
    shuffler = np.random.default_rng(seed)
    possible: tuple[Start, ...] = ("gradients", "text") if readable else ("gradients",)
    routed, agreement = (np.zeros((len(possible), splits, len(ks))) for _ in range(2))
    silhouettes, text = (np.zeros((splits, len(ks))) for _ in range(2))
    one_cluster = np.zeros(splits)
    for split in range(splits):
        order = shuffler.permutation(n)
        halves = [
            _Half(gram, prompts, order[: n // 2], seed, readable),
            _Half(gram, prompts, order[n // 2 :], seed, readable),
        ]
        grid = silhouette_grid(halves[0].gram, halves[0].spectrum, ks, thresholds, 1, seed)
        everything = [np.zeros(len(half.rows), dtype=np.int64) for half in halves]
        one_cluster[split], _ = _judge(halves, everything, 1)
        for place, k in enumerate(ks):
            candidates = [candidate for candidate in grid if candidate.point.k == k]
            silhouettes[split, place] = best_of(candidates).point.silhouette
            of_prompts = [half.text_clusters(k) for half in halves]
            text[split, place], _ = _judge(halves, of_prompts, k)
            for number, start in enumerate(possible):
                labels = [
                    half.clusters(own if start == "text" else half.gradient_clusters(k), k)
                    for half, own in zip(halves, of_prompts, strict=True)
                ]
                figures = _judge(halves, labels, k)
                routed[number, split, place], agreement[number, split, place] = figures
    better = routed.mean(1).argmax(0)  # [K], the first where both are alike
    ways = np.arange(len(ks))
    return Halves(
        tuple(ks),
        silhouettes,
        routed[better, :, ways].T,
        one_cluster,
        text,
        agreement[better, :, ways].T,
        tuple(possible[number] for number in better),
    )


class _Half:
    """Half of the probe, clustered; the other half's rows are unseen."""

    def __init__(self, gram: Matrix, prompts: Prompts, rows: Labels, seed: int, readable: float) -> None:
        unseen = np.setdiff1d(np.arange(len(gram)), rows)
        self.rows = rows
        self.unseen = unseen
        self.seed = seed
        self.readable = readable
        self.gram = np.ascontiguousarray(gram[np.ix_(rows, rows)])
        self.to_unseen = np.ascontiguousarray(gram[np.ix_(unseen, rows)])  # [u, m]
        self.spectrum = spectrum_of(self.gram)
        self.embeddings, others = (
            prompts.embeddings[prompts.rows[part]].astype(np.float64) for part in (rows, unseen)
        )
        self.smoother = _ridge(self.embeddings, others)  # [u, m]
        self.crossed = _crossed(self.embeddings, prompts.folds[rows]) if readable else None  # [m, m]

    def gradient_clusters(self, k: int) -> Labels:
        """Spherical K-means on this half's gradients: labels [m]."""
        return spherical_kmeans(self.gram, self.spectrum, k, _STARTS, self.seed)

    def text_clusters(self, k: int) -> Labels:
        """K-means on this half's prompts: labels [m]."""
        return text_clusters(self.embeddings, k, _STARTS, self.seed)

    def clusters(self, start: Labels, k: int) -> Labels:
        """Labels [m] of this half's rows, from a start: made readable, if they are to be."""
        crossed = self.crossed
        if crossed is None:
            return start
        return readable_clusters(
            self.gram, start, k, lambda now: log_chances(crossed @ np.eye(k)[now]), self.readable
        )

    def unseen_cosines(self, labels: Labels, k: int) -> Matrix:
        """Cosines [u, k] of the unseen rows with this half's centroids."""
        return centroid_cosines(self.to_unseen, self.gram, labels, k)

    def routes(self, labels: Labels, k: int) -> Labels:
        """Clusters [u] that a ridge regression on the labels names for the unseen rows' prompts."""
        return np.asarray((self.smoother @ np.eye(k)[labels]).argmax(1))


def text_clusters(embeddings: NDArray[np.floating], k: int, starts: int, seed: int) -> Labels:
    """K-means on prompts' embeddings [n, H]: labels [n]."""
    return KMeans(k, n_init=starts, random_state=seed).fit(embeddings).labels_.astype(np.int64)


def _judge(halves: Sequence[_Half], labels: Sequence[Labels], k: int) -> tuple[float, float]:
    """The routed cosine, a mean over all rows of both halves, and the agreement, for the halves' labels."""
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


def _crossed(embeddings: Matrix, folds: Labels) -> Matrix:
    """As `_ridge` [m, m], of each row by the rows of other folds."""
    whole = np.zeros((len(folds), len(folds)))
    for fold in np.unique(folds):
        asked, known = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        if len(known):
            whole[np.ix_(asked, known)] = _ridge(embeddings[known], embeddings[asked])
    return whole


def _ridge(known: Matrix, asked: Matrix) -> Matrix:
    """The matrix [u, m] that turns targets of the known rows [m] into predictions for the asked ones [u]."""
    scaler = StandardScaler().fit(known)
    known, asked = scaler.transform(known), scaler.transform(asked)
    width = known.shape[1]
    kernel = known @ known.T / width + _RIDGE * np.eye(len(known))
    smoother = np.linalg.solve(kernel, known @ asked.T / width).T
    # Targets are centred: what a prediction does not take from them it takes from their mean.
    return np.asarray(smoother + (1 - smoother.sum(1, keepdims=True)) / len(known))
