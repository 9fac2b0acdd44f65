"""The paper's grid, point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.planted import isotropic, planted
from training.clusters import silhouette_grid as module
from training.clusters.silhouette_grid import Candidate, best_of, lift_weights, silhouette_grid
from training.clusters.spherical_kmeans import Spectrum, spectrum_of


def grid_of(rows: Tensor, ks: range, thresholds: list[float]) -> tuple[list[Candidate], Spectrum]:
    gram = (rows @ rows.T).numpy()
    spectrum = spectrum_of(gram)
    return silhouette_grid(gram, spectrum, ks, thresholds, 2, 0), spectrum


def test_ties_go_to_the_smaller_k(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.7, 0.7 + 1e-12, 0.6, 0.1, 0.7, 0.7, 0.2])
    monkeypatch.setattr(module, "_silhouette", lambda distance, labels: next(scores))
    candidates, _ = grid_of(planted(3)[0], range(2, 6), [0.5, 0.9])
    assert best_of(candidates).point.k == 3


def test_projected_rows_are_those_of_the_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's G V_k is our U_k S_k, up to the sign of each direction; V is never formed."""
    seen: list[np.ndarray] = []

    class Watching(module.KMeans):
        def fit(self, x: np.ndarray) -> Watching:
            seen.append(x.copy())
            return super().fit(x)

    monkeypatch.setattr(module, "KMeans", Watching)
    rows = isotropic(30, 50)
    candidates, _ = grid_of(rows, range(4, 5), [0.9])
    _, _, v = torch.linalg.svd(rows, full_matrices=False)
    expected = (rows @ v[: candidates[0].point.components].T).numpy()
    assert seen[0].shape == expected.shape
    assert np.allclose(np.abs(seen[0]), np.abs(expected), atol=1e-9)
    signs = np.sign(seen[0][0] * expected[0])
    assert np.allclose(seen[0] * signs, expected, atol=1e-9)


def test_a_lifted_centroid_sorts_rows_as_its_subspace_does() -> None:
    rows = isotropic(40, 60)
    candidates, spectrum = grid_of(rows, range(3, 4), [0.8])
    found = candidates[0]
    lifted = torch.from_numpy(lift_weights(found, spectrum)).T @ rows  # [3, d]
    inside = spectrum.rows(found.point.components) @ found.centroids.T  # [n, 3]
    assert np.allclose((rows @ lifted.T).numpy(), inside, atol=1e-9)
    assert np.allclose(lifted.norm(dim=1).numpy(), np.linalg.norm(found.centroids, axis=1), atol=1e-9)


@pytest.mark.parametrize("threshold", [0.8, 1.0])
def test_a_gram_matrix_of_low_rank(threshold: float) -> None:
    """40 rows, 3 directions: no centroid is lifted along a direction that is only rounding."""
    generator = torch.Generator().manual_seed(0)
    spanning = torch.randn(3, 50, dtype=torch.float64, generator=generator)
    rows = normalize(torch.randn(40, 3, dtype=torch.float64, generator=generator) @ spanning, dim=1)
    gram = (rows.float() @ rows.float().T).double().numpy()  # as it comes from float32 gradients
    spectrum = spectrum_of(gram)
    found = best_of(silhouette_grid(gram, spectrum, range(2, 5), [threshold], 2, 0))
    weights = torch.from_numpy(lift_weights(found, spectrum))
    assert bool(torch.isfinite(weights).all())
    labels = torch.from_numpy(found.labels)
    means = torch.stack([rows[labels == label].mean(0) for label in range(found.point.k)])
    if threshold == 1.0:
        assert float((weights.T @ rows - means).norm(dim=1).max()) < 1e-3
