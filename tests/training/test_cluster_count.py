"""K, and where the centroids start, from nothing but a Gram matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

from training import cluster_count
from training.cluster_count import choose_clusters
from training.errors import RecipeError
from training.recipe import ClustersSection


def planted(k: int, each: int = 20, d: int = 60, spread: float = 0.05) -> tuple[Tensor, np.ndarray]:
    """Unit rows [k * each, d] in k tight bundles of directions, shuffled, and their labels."""
    generator = torch.Generator().manual_seed(k)
    centres = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0][:k]
    labels = torch.arange(k).repeat_interleave(each)[torch.randperm(k * each, generator=generator)]
    noise = spread * torch.randn(k * each, d, dtype=torch.float64, generator=generator)
    return normalize(centres[labels] + noise, dim=1), labels.numpy()


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_planted_clusters_are_found(k: int) -> None:
    rows, labels = planted(k)
    start = choose_clusters(rows @ rows.T, ClustersSection(n_init=3), seed=0)
    assert start.k == k
    assert adjusted_rand_score(labels, start.probe_labels) == 1.0
    assert start.weights.shape == (len(rows), k)
    lifted = normalize(start.weights.T @ rows, dim=1)  # [k, d]
    assert (rows @ lifted.T).argmax(1).tolist() == list(start.probe_labels)


def test_the_whole_grid_is_kept_and_the_best_point_won() -> None:
    rows, _ = planted(3)
    section = ClustersSection(n_init=2, k_min=2, k_max=6)
    start = choose_clusters(rows @ rows.T, section, seed=0)
    assert [(point.threshold, point.k) for point in start.grid] == [
        (threshold, k) for threshold in (0.80, 0.85, 0.90, 0.95) for k in range(2, 7)
    ]
    best = max(point.silhouette for point in start.grid)
    won = [point for point in start.grid if (point.k, point.components) == (start.k, start.components)]
    assert won[0].silhouette == best
    # The silhouette is on the exact cosine distance of whole gradients, whatever the subspace.
    distance = (1 - rows @ rows.T).clamp_min(0).fill_diagonal_(0).numpy()
    exact = silhouette_score(distance, np.array(start.probe_labels), metric="precomputed")
    assert won[0].silhouette == pytest.approx(exact)


def test_the_summary_is_of_the_spectrum() -> None:
    rows, _ = planted(4)
    start = choose_clusters(rows @ rows.T, ClustersSection(n_init=1), seed=0)
    singular = torch.linalg.svdvals(rows)
    assert torch.allclose(torch.tensor(start.singular_values, dtype=torch.float64), singular, atol=1e-6)
    energy = singular.square()
    assert start.summary()["first_direction_share"] == pytest.approx(float(energy[0] / energy.sum()))
    for point in start.grid:
        kept = energy[: point.components].sum() / energy.sum()
        assert kept >= point.threshold
        assert energy[: point.components - 1].sum() / energy.sum() < point.threshold


def test_ties_go_to_the_smaller_k(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7, 0.7 + 1e-12, 0.6, 0.1, 0.7, 0.7, 0.2])
    monkeypatch.setattr(cluster_count, "_silhouette", lambda distance, labels: next(scores))
    rows, _ = planted(3)
    section = ClustersSection(n_init=1, k_min=2, k_max=5, thresholds=(0.5, 0.9))
    assert choose_clusters(rows @ rows.T, section, seed=0).k == 3


def test_projected_rows_are_those_of_the_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's G V_k is our U_k S_k, up to the sign of each direction; V is never formed."""
    seen: list[np.ndarray] = []

    class Watching(cluster_count.KMeans):
        def fit(self, x: np.ndarray) -> Watching:
            seen.append(x.copy())
            return super().fit(x)

    monkeypatch.setattr(cluster_count, "KMeans", Watching)
    rows = normalize(
        torch.randn(30, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(4)), dim=1
    )
    start = choose_clusters(rows @ rows.T, ClustersSection(k=4, thresholds=(0.9,), n_init=1), seed=0)
    _, _, v = torch.linalg.svd(rows, full_matrices=False)
    expected = (rows @ v[: start.components].T).numpy()
    assert seen[0].shape == expected.shape
    assert np.allclose(np.abs(seen[0]), np.abs(expected), atol=1e-9)
    signs = np.sign(seen[0][0] * expected[0])
    assert np.allclose(seen[0] * signs, expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_the_recipe_can_fix_k(k: int) -> None:
    rows, _ = planted(3)
    start = choose_clusters(rows @ rows.T, ClustersSection(k=k, n_init=2), seed=0)
    assert start.k == k == start.weights.shape[1]
    assert {point.k for point in start.grid} == {k}
    if k == 1:
        lifted = start.weights.T @ rows
        assert torch.nn.functional.cosine_similarity(lifted, rows.mean(0)[None]).item() > 0.99


def test_too_few_rows_for_any_k() -> None:
    rows, _ = planted(2, each=1)
    with pytest.raises(RecipeError, match=r"2 rows are too few for K = 2\. Raise split\.probe_at_least"):
        choose_clusters(rows @ rows.T, ClustersSection(), seed=0)
    with pytest.raises(RecipeError, match=r"too few for K = 9"):
        choose_clusters(torch.eye(9, dtype=torch.float64), ClustersSection(k=9), seed=0)


def test_few_rows_leave_out_the_ks_they_can_not_have() -> None:
    rows, _ = planted(2, each=3)
    start = choose_clusters(rows @ rows.T, ClustersSection(n_init=1), seed=0)
    assert {point.k for point in start.grid} == {2, 3, 4, 5}
    assert start.k == 2


@pytest.mark.parametrize("threshold", [0.8, 1.0])
def test_a_gram_matrix_of_low_rank(threshold: float) -> None:
    """40 rows, 3 directions: no centroid is lifted along a direction that is only rounding."""
    generator = torch.Generator().manual_seed(0)
    spanning = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    rows = normalize(torch.randn(40, 3, dtype=torch.float64, generator=generator) @ spanning, dim=1)
    section = ClustersSection(n_init=2, k_max=4, thresholds=(threshold,))
    start = choose_clusters((rows.float() @ rows.float().T).double(), section, seed=0)
    assert start.components <= 40
    assert bool(torch.isfinite(start.weights).all())
    lifted = start.weights.T @ rows
    labels = torch.tensor(start.probe_labels)
    means = torch.stack([rows[labels == label].mean(0) for label in range(start.k)])
    if threshold == 1.0:
        assert float((lifted - means).norm(dim=1).max()) < 1e-3


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_rows_that_are_all_alike() -> None:
    start = choose_clusters(torch.ones(10, 10, dtype=torch.float64), ClustersSection(n_init=1), seed=0)
    assert start.k == 2
    assert start.components == 1
    assert bool(torch.isfinite(start.weights).all())


def test_the_same_seed_gives_the_same_start() -> None:
    rows, _ = planted(4, spread=0.4)
    first, second = (choose_clusters(rows @ rows.T, ClustersSection(n_init=1), seed=7) for _ in range(2))
    assert torch.equal(first.weights, second.weights)
    assert first.grid == second.grid
