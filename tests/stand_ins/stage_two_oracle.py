"""Stage II from cosines alone, in float64: shares nothing with `training` but K-means and NumPy's shuffles.

A centroid is a weight vector w over rows, of length sqrt(w' H w); its cosines with all rows are H w / sqrt(w' H w);
a cache is a list of row numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from training.recipe import ClustersSection

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

Chances = Callable[[Labels, int], NDArray[np.floating]]

SEED = 3


@dataclass(frozen=True)
class Partition:
    """What Stage II finds: K, the start's and the final centroids as weights of rows, every epoch, every label."""

    k: int
    start: Matrix  # [N, K]
    centroids: Matrix  # [N, K]
    epochs: list[tuple[float, float, list[int]]]  # drift, churn, sizes
    converged: bool
    labels: Labels  # [N], largest cluster first
    cosines: Matrix  # [N, K], columns in that order
    scores: Matrix  # [N, K], what decides
    order: list[int]


class Fifo:
    """The paper's cache: the latest rows of each cluster."""

    def __init__(self, k: int, section: ClustersSection) -> None:
        self.held: list[deque[int]] = [
            deque(maxlen=section.cache_batches * section.batch_rows) for _ in range(k)
        ]

    def insert(self, label: int, row: int) -> None:
        self.held[label].append(row)

    def rows(self, label: int) -> list[int]:
        return list(self.held[label])


class Ring:
    """The bounded cache: slots of rows; when one more is needed than there may be, the oldest goes whole."""

    def __init__(self, k: int, section: ClustersSection) -> None:
        self.size = section.batch_rows
        self.held: list[deque[list[int]]] = [deque([[]], maxlen=section.cache_batches) for _ in range(k)]

    def insert(self, label: int, row: int) -> None:
        if len(self.held[label][-1]) == self.size:
            self.held[label].append([])
        self.held[label][-1].append(row)

    def rows(self, label: int) -> list[int]:
        return [row for slot in self.held[label] for row in slot]


def start_by_the_papers_rule(gram: Matrix, section: ClustersSection) -> Matrix:
    """Weights [n, K] of the first centroids: SVD, K-means in the subspace, silhouette, lift (section 5.3.1)."""
    left, squares, _ = np.linalg.svd(gram, hermitian=True)
    best: tuple[float, int] | None = None
    weights = np.empty(0)
    for threshold in section.thresholds:
        size = 1
        while squares[:size].sum() / squares.sum() < threshold:
            size += 1
        rows = left[:, :size] * np.sqrt(squares[:size])
        for k in range(section.k_min, section.k_max + 1):
            means = KMeans(k, n_init=section.n_init, random_state=SEED).fit(rows)
            distance = np.clip(1 - gram, 0, None)
            np.fill_diagonal(distance, 0)
            score = silhouette_score(distance, means.labels_, metric="precomputed")
            if best is None or (round(score, 9), -k) > best:
                best = (round(score, 9), -k)
                weights = left[:, :size] / np.sqrt(squares[:size]) @ means.cluster_centers_.T
    return weights


def oracle(
    gram: Matrix,
    train: list[int],
    probe: list[int],
    weights: Matrix,
    section: ClustersSection,
    cache: str,
    chances: Chances | None = None,
    probe_labels: tuple[int, ...] = (),
) -> Partition:
    """Calibrate and assign (sections 5.3.2 and 5.3.3) from cosines [N, N]; `weights` [n, K] are over the probe.

    `chances` gives log p(k | prompt) [N, K] for labels [N], -1 where there is none: before the first epoch of all rows
    but the probe, which has `probe_labels`, later of all rows that are not calibrated.
    """
    n, k = len(gram), weights.shape[1]
    start = np.zeros((n, k))
    start[probe] = weights
    start /= np.sqrt(np.einsum("nk,nm,mk->k", start, gram, start))
    w = start.copy()
    held = (Fifo if cache == "exact" else Ring)(k, section)
    labels = np.full(n, -1)
    known = labels.copy()
    known[probe] = probe_labels or 0
    epochs: list[tuple[float, float, list[int]]] = []
    shuffles = np.random.default_rng(SEED)
    converged = False
    while len(epochs) < section.max_epochs and not converged:
        w_before, labels_before = w.copy(), labels.copy()
        drawn = section.readable * chances(known, k) if chances else np.zeros((n, k))
        order = [train[place] for place in shuffles.permutation(len(train))]
        for first in range(0, len(order), section.batch_rows):
            batch = order[first : first + section.batch_rows]
            products = (
                gram[batch] @ w + drawn[batch]
            )  # c has length one: these are cosines, and what is added
            for row, cosines in zip(batch, products, strict=True):
                labels[row] = int(cosines.argmax())
                held.insert(labels[row], row)
            for label in sorted({int(labels[row]) for row in batch}):
                rows = held.rows(label)
                w[:, label] *= section.beta
                np.add.at(w[:, label], rows, (1 - section.beta) / len(rows))  # a row may be held twice
                w[:, label] /= np.sqrt(w[:, label] @ gram @ w[:, label])
        drift = max(1 - w[:, label] @ gram @ w_before[:, label] for label in range(k))
        churn = float(np.mean([labels[row] != labels_before[row] for row in train]))
        known = labels.copy()
        epochs.append((drift, churn, np.bincount(labels[train], minlength=k).tolist()))
        converged = drift < section.max_drift and churn < section.max_churn
    cosines = gram @ w / np.sqrt(np.einsum("nk,nm,mk->k", w, gram, w))
    scores = cosines + (section.readable * chances(known, k) if chances else 0)
    sizes = np.bincount(scores[train].argmax(1), minlength=k)
    by_size = sorted(range(k), key=lambda label: (-sizes[label], label))
    scores, cosines = scores[:, by_size], cosines[:, by_size]
    return Partition(k, start, w, epochs, converged, scores.argmax(1), cosines, scores, by_size)
