"""Spherical K-means on whole gradients, computed from their cosines alone.

Calibration assigns rows by cosine and moves centroids towards the mean of their unit gradients (section 5.3.2).
Where it comes to rest is where spherical K-means in R^d comes to rest, so a start found by that very algorithm has
the least way to go. Unit gradients g_i enter only by H = G G^T: with c_k the mean of a cluster's n_k members,
g_i c_k = sum_j H_ij / n_k over its members, and |c_k|^2 is the mean of that over the members themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

_RANK_FLOOR = 1e-10  # a squared singular value below this share of the largest is rounding, not a direction
_MOST_TURNS = 100


@dataclass(frozen=True)
class Spectrum:
    """H = U S^2 U^T, largest first: `energies` [r] are the squared singular values, `vectors` [n, r] is U."""

    energies: Matrix
    vectors: Matrix

    def rows(self, directions: int) -> Matrix:
        """Return the rows in the leading directions, U_k S_k [n, k]: the paper's G V_k (section 5.3.1)."""
        return self.vectors[:, :directions] * np.sqrt(self.energies[:directions])


def spectrum_of(gram: Matrix) -> Spectrum:
    """Decompose the cosines [n, n], without the directions that are rounding."""
    energies, vectors = np.linalg.eigh(gram)
    energies, vectors = energies[::-1].clip(0), vectors[:, ::-1]
    rank = int((energies > energies[0] * _RANK_FLOOR).sum())
    return Spectrum(energies[:rank], vectors[:, :rank])


def spherical_kmeans(gram: Matrix, spectrum: Spectrum, k: int, starts: int, seed: int) -> Labels:
    """Cluster rows with cosines `gram` [n, n] into k clusters; return labels [n], every cluster with a row.

    Each of the starts is K-means on the rows' directions in the k leading singular directions, where the relaxed
    problem has its solution; from there whole gradients decide. The start with the largest mean cosine between
    rows and their centroids wins.
    """
    directions = spectrum.rows(k)  # [n, min(k, r)]
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / np.maximum(lengths, np.finfo(np.float64).tiny)
    best, highest = np.zeros(len(gram), dtype=np.int64), -np.inf
    for start in range(starts):
        first = KMeans(k, n_init=1, random_state=seed + start).fit(directions).labels_.astype(np.int64)
        labels, score = _settle(gram, _no_empty(gram, first, k), k)
        if score > highest + 1e-12:
            best, highest = labels, score
    return best


def centroid_cosines(to_members: Matrix, gram: Matrix, labels: Labels, k: int) -> Matrix:
    """Cosines [m, k] of any rows with the means of k clusters; a cluster without members gets -1.

    `to_members` [m, n] are the rows' cosines with the n clustered rows, `gram` [n, n] those rows' own.
    """
    weights = member_weights(labels, k)  # [n, k]
    squared = np.einsum("nk,nk->k", weights, gram @ weights)
    cosines = to_members @ weights / np.sqrt(np.maximum(squared, np.finfo(np.float64).tiny))
    cosines[:, np.bincount(labels, minlength=k) == 0] = -1.0
    return np.asarray(cosines)


def member_weights(labels: Labels, k: int) -> Matrix:
    """Weights [n, k] with which centroid k is the mean of its members: the sum over rows i of weights[i, k] g_i."""
    weights = np.zeros((len(labels), k))
    weights[np.arange(len(labels)), labels] = 1.0
    return weights / np.maximum(weights.sum(0), 1.0)


def _no_empty(gram: Matrix, labels: Labels, k: int) -> Labels:
    """Give a cluster without rows, if there is one, the row that lies farthest from its centroid."""
    labels = labels.copy()
    for label in range(k):
        sizes = np.bincount(labels, minlength=k)
        if sizes[label] == 0:
            own = centroid_cosines(gram, gram, labels, k)[np.arange(len(labels)), labels]
            labels[np.where(sizes[labels] > 1, own, np.inf).argmin()] = label
    return labels


def _settle(gram: Matrix, labels: Labels, k: int) -> tuple[Labels, float]:
    """Assign and average in turn until no row moves; return the labels and the mean cosine to the own centroid.

    A turn that would empty a cluster is not taken.
    """
    score = -np.inf
    for _ in range(_MOST_TURNS):
        cosines = centroid_cosines(gram, gram, labels, k)  # [n, k]
        score = float(cosines.max(1).mean())
        nearest = cosines.argmax(1).astype(np.int64)
        if (nearest == labels).all() or len(np.unique(nearest)) < k:
            break
        labels = nearest
    return labels, score
