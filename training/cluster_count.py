"""How many clusters, and where they start: SVD, K-means, silhouette (section 5.3.1)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import silhouette_score
from torch import Tensor

from training.errors import RecipeError
from training.recipe import ClustersSection

_RANK_FLOOR = 1e-10  # singular values squared below this share of the largest are rounding, not directions


@dataclass(frozen=True)
class GridPoint:
    """One K-means run: in the subspace that keeps `threshold` of the energy, for one K."""

    threshold: float
    components: int
    k: int
    silhouette: float


@dataclass(frozen=True)
class ClusterStart:
    """The chosen K and the start of its centroids."""

    k: int
    components: int
    grid: tuple[GridPoint, ...]
    singular_values: tuple[float, ...]
    weights: Tensor  # [n, K] float64: centroid k in R^d is the sum over rows i of weights[i, k] * g_i
    probe_labels: tuple[int, ...]  # [n], as K-means put the probe's rows

    def summary(self) -> dict[str, Any]:
        """Return what the report says of the choice."""
        energy = np.square(self.singular_values)
        return {
            "k": self.k,
            "components": self.components,
            "grid": [asdict(point) for point in self.grid],
            "singular_values": list(self.singular_values),
            "first_direction_share": float(energy[0] / energy.sum()),
        }


@dataclass(frozen=True)
class _Candidate:
    point: GridPoint
    centroids: NDArray[np.float64]  # [K, k] in the subspace
    labels: NDArray[np.int32]  # [n]


def choose_clusters(gram: Tensor, section: ClustersSection, seed: int) -> ClusterStart:
    """Choose K by silhouette over thresholds x K, and lift the winner's centroids to R^d.

    `gram` [n, n] holds the cosines of the probe's gradients. With H = U S^2 U^T the rows in the subspace of
    the first k singular vectors are U_k S_k (the paper's G V_k), and K-means' centroid c lifts to
    V_k c = G^T (U_k S_k^-1 c). V_k is orthonormal, so the lifted centroids sort any row exactly as the
    centroids of the subspace do. The silhouette is taken on the exact cosine distance 1 - H for every point of
    the grid: across subspaces of different size only one common distance can be compared. Ties go to the
    smaller K.

    Raises:
        RecipeError: the probe has too few rows for any K of the range.

    """
    n = gram.shape[0]
    energies, vectors = torch.linalg.eigh(gram)  # ascending: [n], [n, n]
    energies, vectors = energies.flip(0).clamp_min(0), vectors.flip(1)
    rank = int((energies > energies[0] * _RANK_FLOOR).sum())
    energies, vectors = energies[:rank], vectors[:, :rank]
    distance = (1 - gram).clamp_min(0).fill_diagonal_(0).numpy()  # [n, n]

    ks = [section.k] if section.k is not None else list(range(section.k_min, section.k_max + 1))
    usable = [k for k in ks if k < n]
    if not usable:
        raise RecipeError(f"The probe's {n} rows are too few for K = {ks[0]}. Raise split.probe_at_least.")
    kept = energies.cumsum(0) / energies.sum()  # [rank]
    candidates = []
    for threshold in section.thresholds:
        components = min(rank, int((kept < threshold - 1e-12).sum()) + 1)
        projected = (vectors[:, :components] * energies[:components].sqrt()).numpy()  # [n, k] = U_k S_k
        for k in usable:
            means = KMeans(k, n_init=section.n_init, random_state=seed).fit(projected)
            score = _silhouette(distance, means.labels_)
            point = GridPoint(threshold, components, k, score)
            candidates.append(_Candidate(point, means.cluster_centers_, means.labels_))
    best = max(candidates, key=lambda candidate: (round(candidate.point.silhouette, 9), -candidate.point.k))
    components = best.point.components
    inverse = vectors[:, :components] / energies[:components].sqrt()  # [n, k] = U_k S_k^-1
    return ClusterStart(
        k=best.point.k,
        components=components,
        grid=tuple(candidate.point for candidate in candidates),
        singular_values=tuple(float(value) for value in energies.sqrt()),
        weights=inverse @ torch.from_numpy(best.centroids.astype(np.float64)).T,  # [n, K]
        probe_labels=tuple(int(label) for label in best.labels),
    )


def _silhouette(distance: NDArray[np.float64], labels: NDArray[np.int32]) -> float:
    found = len(np.unique(labels))
    if not 2 <= found < len(labels):
        return 0.0  # one cluster, or every row its own: the score is not defined and says nothing
    return float(silhouette_score(distance, labels, metric="precomputed"))
