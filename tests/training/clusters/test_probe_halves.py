"""Halves of the probe: what they measure, against the same thing in R^d."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.stand_ins.planted import isotropic, planted
from training.clusters import probe_halves
from training.clusters.probe_halves import Halves, split_in_halves


def halves_of(rows: Tensor, ks: range, embeddings: np.ndarray | None = None, splits: int = 6) -> Halves:
    prompts = rows.numpy() if embeddings is None else embeddings
    return split_in_halves((rows @ rows.T).numpy(), prompts, ks, [0.9], splits, 0)


def test_the_routed_cosine_is_that_of_whole_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routed by scikit-learn's ridge, measured on the other half's mean gradient: row by row, in R^d."""
    rows = planted(3, each=10, spread=0.5)[0]
    prompts = np.random.default_rng(0).normal(size=(30, 4)) + rows.numpy()[:, :4]
    labels = np.arange(15) % 3
    monkeypatch.setattr(probe_halves, "spherical_kmeans", lambda gram, spectrum, k, *rest: labels % k)
    found = halves_of(rows, range(3, 4), prompts, splits=1)
    order = np.random.default_rng(0).permutation(30)
    cosines = []
    for known, unseen in ((order[:15], order[15:]), (order[15:], order[:15])):
        scaler = StandardScaler().fit(prompts[known])
        router = Ridge(alpha=4.0).fit(scaler.transform(prompts[known]), np.eye(3)[labels])  # 1 x the width
        routes = router.predict(scaler.transform(prompts[unseen])).argmax(1)
        means = torch.stack([rows[known[labels == label]].mean(0) for label in range(3)])
        cosines += cosine_similarity(rows[unseen], means[routes], dim=1).tolist()
    assert found.routed[0, 0] == pytest.approx(np.mean(cosines), abs=1e-9)


def test_it_peaks_at_the_planted_k() -> None:
    found = halves_of(planted(4, each=25, spread=0.15)[0], range(2, 8))
    means = found.routed.mean(0)
    assert found.ks[int(means.argmax())] == 4
    assert means[2] > means[1] + 0.05  # well above one fewer
    assert found.one_cluster.mean() < means[0]
    assert found.agreement[:, 2].min() == 1.0  # both halves see the same four


def test_more_clusters_of_noise_are_no_better() -> None:
    """A silhouette, or the cosine to the nearest centroid, can grow with K on rows without structure; this can't."""
    found = halves_of(isotropic(200, 2000), range(2, 9), np.random.default_rng(0).normal(size=(200, 5)))
    assert abs(found.routed.mean(0)).max() < 0.01
    assert abs(found.one_cluster.mean()) < 0.01
    assert abs(found.agreement.mean()) < 0.05


def test_a_row_is_judged_by_the_half_that_has_not_seen_it() -> None:
    """Rows in no direction at all would else have a cosine with a mean that they are part of: 1 in 40 and more."""
    found = halves_of(isotropic(80, 5000), range(2, 3), splits=4)
    assert abs(found.one_cluster).max() < 0.01


def test_each_split_is_a_new_one() -> None:
    found = halves_of(planted(2, each=12, spread=0.5)[0], range(2, 4), splits=4)
    assert found.routed.shape == found.silhouettes.shape == found.agreement.shape == (4, 2)
    assert len(set(found.one_cluster.tolist())) == 4
