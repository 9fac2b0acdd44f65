"""Spherical K-means from cosines alone, against the same thing in R^d."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import normalize

from tests.stand_ins.planted import isotropic, planted
from training.clusters.spherical_kmeans import centroid_cosines, member_weights, spectrum_of, spherical_kmeans


@pytest.mark.parametrize("k", [1, 2, 3, 6])
def test_it_rests_where_calibration_rests(k: int) -> None:
    """Every row lies with the centroid of largest cosine, every centroid is its members' mean: in R^d."""
    rows = isotropic(80, 30)
    gram = (rows @ rows.T).numpy()
    labels = torch.from_numpy(spherical_kmeans(gram, spectrum_of(gram), k, 3, 0))
    means = torch.stack([rows[labels == label].mean(0) for label in range(k)])
    assert (rows @ normalize(means, dim=1).T).argmax(1).tolist() == labels.tolist()


def test_cosines_with_means_are_those_in_the_whole_space() -> None:
    rows, others = isotropic(40, 25), isotropic(13, 25)
    labels = np.arange(40) % 3
    found = centroid_cosines((others @ rows.T).numpy(), (rows @ rows.T).numpy(), labels, 4)
    means = torch.stack([rows[labels == label].mean(0) for label in range(3)])
    assert np.allclose(found[:, :3], (others @ normalize(means, dim=1).T).numpy(), atol=1e-12)
    assert found[:, 3].tolist() == [-1.0] * 13  # nobody goes to a cluster that has no centroid
    assert torch.allclose(torch.from_numpy(member_weights(labels, 3)).T @ rows, means)


def test_the_best_of_several_starts_is_kept() -> None:
    rows, labels = planted(7)
    gram = (rows @ rows.T).numpy()
    spectrum = spectrum_of(gram)

    def score(found: np.ndarray) -> float:
        return float(centroid_cosines(gram, gram, found, 7).max(1).mean())

    single = [score(spherical_kmeans(gram, spectrum, 7, 1, seed)) for seed in range(6)]
    assert score(spherical_kmeans(gram, spectrum, 7, 6, 0)) == pytest.approx(max(single))
    assert adjusted_rand_score(labels, spherical_kmeans(gram, spectrum, 7, 6, 0)) == 1.0


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_no_cluster_is_left_without_a_row() -> None:
    gram = np.ones((9, 9))
    labels = spherical_kmeans(gram, spectrum_of(gram), 4, 2, 0)
    assert sorted(set(labels.tolist())) == [0, 1, 2, 3]
