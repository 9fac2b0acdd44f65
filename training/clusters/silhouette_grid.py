"""The paper's way to K: K-means in subspaces of much explained variance, judged by silhouette (section 5.3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score

from training.clusters.spherical_kmeans import Labels, Matrix, Spectrum


@dataclass(frozen=True)
class GridPoint:
    """One K-means run: in the subspace that keeps `threshold` of the energy, for one K."""

    threshold: float
    components: int
    k: int
    silhouette: float


@dataclass(frozen=True)
class Candidate:
    """A point of the grid and what K-means found there: centroids [K, components] and labels [n]."""

    point: GridPoint
    centroids: Matrix
    labels: Labels


def silhouette_grid(
    gram: Matrix, spectrum: Spectrum, ks: Sequence[int], thresholds: Sequence[float], starts: int, seed: int
) -> list[Candidate]:
    """Run K-means for every threshold and K on rows with cosines `gram` [n, n]; each K is below n.

    The silhouette is taken on the exact cosine distance 1 - H for every point of the grid: across subspaces of
    different size only one common distance can be compared.
    """
    distance = (1 - gram).clip(0)  # [n, n]
    np.fill_diagonal(distance, 0)
    kept = spectrum.energies.cumsum() / spectrum.energies.sum()  # [r]
    candidates = []
    for threshold in thresholds:
        components = min(len(kept), int((kept < threshold - 1e-12).sum()) + 1)
        projected = spectrum.rows(components)  # [n, components]
        for k in ks:
            means = KMeans(k, n_init=starts, random_state=seed).fit(projected)
            point = GridPoint(threshold, components, k, _silhouette(distance, means.labels_))
            candidates.append(Candidate(point, means.cluster_centers_, means.labels_.astype(np.int64)))
    return candidates


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate of the highest silhouette; ties go to the smaller K."""
    return max(candidates, key=lambda candidate: (round(candidate.point.silhouette, 9), -candidate.point.k))


def lift_weights(candidate: Candidate, spectrum: Spectrum) -> Matrix:
    """Weights [n, K] with which its centroids are sums of rows in R^d.

    A centroid c of the subspace lifts to V_k c = G^T (U_k S_k^-1 c). V_k is orthonormal, so the lifted centroids
    sort any row exactly as the centroids of the subspace do.
    """
    components = candidate.point.components
    inverse = spectrum.vectors[:, :components] / np.sqrt(spectrum.energies[:components])  # U_k S_k^-1
    return np.asarray(inverse @ candidate.centroids.astype(np.float64).T)


def _silhouette(distance: Matrix, labels: NDArray[np.int32]) -> float:
    found = len(np.unique(labels))
    if not 2 <= found < len(labels):
        return 0.0  # one cluster, or every row its own: the score is not defined and says nothing
    return float(silhouette_score(distance, labels, metric="precomputed"))
