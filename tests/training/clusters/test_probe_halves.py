"""Halves of the probe: what they measure, against the same thing in R^d."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import cosine_similarity

from tests.stand_ins.planted import isotropic, planted
from training.clusters import probe_halves
from training.clusters.probe_halves import Halves, split_in_halves
from training.clusters.readable import in_folds


def halves_of(
    rows: Tensor, ks: range, embeddings: np.ndarray | None = None, splits: int = 6, readable: float = 0.0
) -> Halves:
    texts = [str(row) for row in range(len(rows))]
    prompts = in_folds(rows.numpy() if embeddings is None else embeddings, range(len(rows)), texts, 0)
    return split_in_halves((rows @ rows.T).numpy(), prompts, ks, [0.9], splits, 0, readable)


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


def test_readable_clusters_start_from_gradients_or_from_prompts() -> None:
    """Gradients that show four bundles faintly and prompts that show them well: text is the better start, and shown."""
    rows, labels = planted(4, each=30, spread=1.6)
    noise = np.random.default_rng(0).normal(size=(120, 6))
    prompts = np.concatenate([6 * np.eye(4)[labels], noise], axis=1).astype(np.float32)
    plain, drawn = (halves_of(rows, range(4, 5), prompts, readable=weight) for weight in (0.0, 0.1))
    assert plain.starts == ("gradients",)
    assert drawn.starts == ("text",)
    assert drawn.routed.mean() > plain.routed.mean() + 0.01
    assert np.array_equal(drawn.text, plain.text)
    assert drawn.text.mean() == pytest.approx(drawn.routed.mean(), abs=0.02)


def test_the_crossed_smoother_is_ridge_on_the_other_folds() -> None:
    draw = np.random.default_rng(0)
    embeddings, folds = draw.normal(size=(40, 6)), draw.integers(0, 5, 40)
    targets = np.eye(3)[draw.integers(0, 3, 40)]
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), Ridge(alpha=6.0)), embeddings, targets, cv=PredefinedSplit(folds)
    )
    found = probe_halves._crossed(embeddings, folds) @ targets
    assert found == pytest.approx(expected, abs=1e-9)
