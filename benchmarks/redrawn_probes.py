"""How often each rule chooses which K, and the same partition, when the probe is drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from training.clusters.count import choose_clusters
from training.clusters.silhouette_grid import best_of, silhouette_grid
from training.clusters.spherical_kmeans import spectrum_of
from training.recipe import ClustersSection

RULES = ("paper", "routed")


def redraw(
    gram: NDArray[np.float64],
    embeddings: NDArray[np.float32],
    section: ClustersSection,
    probe_rows: int,
    draws: int,
) -> dict[str, Any]:
    """Choose K on `draws` random probes of the rows with cosines `gram` [n, n].

    Returns:
        probe_rows; per rule: ks, the K of each draw; same_k, the share of pairs of probes that agree on it; ari, the
        mean adjusted Rand index between the partitions of all n rows that pairs of probes start from.

    """
    shuffler = np.random.default_rng(0)
    chosen: dict[str, list[int]] = {rule: [] for rule in RULES}
    partitions: dict[str, list[NDArray[np.int64]]] = {rule: [] for rule in RULES}
    for _ in range(draws):
        probe = shuffler.permutation(len(gram))[:probe_rows]
        cosines = np.ascontiguousarray(gram[np.ix_(probe, probe)])
        # Only rule `routed` needs the halves; the paper's K comes out of its grid alone.
        routed = _choice(cosines, section, "routed", None, embeddings[probe])
        paper = _choice(cosines, section, "paper", _papers_k(cosines, section))
        for rule, start in (("routed", routed), ("paper", paper)):
            chosen[rule].append(start.k)
            weights = start.weights.numpy()  # [p, K]
            lengths = np.sqrt(np.einsum("pk,pk->k", weights, cosines @ weights))
            partitions[rule].append((gram[:, probe] @ weights / lengths).argmax(1))
    return {"probe_rows": probe_rows} | {
        rule: {
            "ks": chosen[rule],
            "same_k": float(np.mean([one == other for one, other in combinations(chosen[rule], 2)])),
            "ari": float(np.mean([adjusted_rand_score(*pair) for pair in combinations(partitions[rule], 2)])),
        }
        for rule in RULES
    }


def share_by_k(ks: Sequence[int]) -> dict[int, float]:
    """The share of the draws that chose each K."""
    values, counts = np.unique(ks, return_counts=True)
    return {int(k): float(count / len(ks)) for k, count in zip(values, counts, strict=True)}


def _papers_k(cosines: NDArray[np.float64], section: ClustersSection) -> int:
    ks = range(section.k_min, section.k_max + 1)
    grid = silhouette_grid(cosines, spectrum_of(cosines), ks, section.thresholds, section.n_init, 0)
    return best_of(grid).point.k


def _choice(
    cosines: NDArray[np.float64],
    section: ClustersSection,
    rule: str,
    k: int | None,
    embeddings: NDArray[np.float32] | None = None,
) -> Any:
    own = section.model_copy(update={"rule": rule, "k": k})
    return choose_clusters(torch.from_numpy(cosines), own, 0, embeddings)
