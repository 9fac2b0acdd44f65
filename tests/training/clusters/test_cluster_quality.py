"""Cosines and variances from inner products alone, against the vectors themselves."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from training.clusters.quality import cluster_quality, gradient_variance, mean_cosines
from training.errors import TrainingError

Matrix = NDArray[np.float64]


def clustered(n: int = 60, d: int = 9, k: int = 3, seed: int = 0) -> tuple[Matrix, NDArray[np.int64]]:
    """Vectors [n, d] of very different length around k directions, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, n)
    centres = random.normal(size=(k, d))
    vectors = (centres[labels] + random.normal(size=(n, d))) * random.lognormal(size=(n, 1))
    return vectors, labels


def parts_of(vectors: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    norms = np.linalg.norm(vectors, axis=1)
    unit = vectors / norms[:, None]
    return unit @ unit.T, norms, unit


def spread(vectors: Matrix) -> float:
    return float(np.square(vectors - vectors.mean(0)).sum(1).mean())


def test_mean_cosines_are_those_of_all_pairs_but_a_row_with_itself() -> None:
    vectors, labels = clustered()
    gram, _, unit = parts_of(vectors)
    found = mean_cosines(gram, labels, 3)
    for a in range(3):
        for b in range(3):
            pairs = [
                float(unit[i] @ unit[j])
                for i in np.flatnonzero(labels == a)
                for j in np.flatnonzero(labels == b)
                if i != j
            ]
            assert found[a][b] == pytest.approx(np.mean(pairs))


def test_a_cluster_of_one_row_has_no_cosine_inside_and_an_empty_one_has_none_at_all() -> None:
    vectors, _ = clustered(n=4)
    found = mean_cosines(parts_of(vectors)[0], np.array([0, 0, 0, 2]), 3)
    assert found[2][2] is None
    assert found[2][0] is not None
    assert found[1] == [None, None, None]
    assert [row[1] for row in found] == [None, None, None]


@pytest.mark.parametrize("raw", [False, True])
def test_variance_is_that_of_the_vectors(raw: bool) -> None:
    vectors, labels = clustered()
    gram, norms, unit = parts_of(vectors)
    of = vectors if raw else unit
    found = cluster_quality(gram, norms, labels, 3)["raw" if raw else "unit"]
    assert found["whole"] == pytest.approx(spread(of))
    assert found["clusters"] == pytest.approx([spread(of[labels == label]) for label in range(3)])
    weighted = sum((labels == label).mean() * spread(of[labels == label]) for label in range(3))
    assert found["weighted"] == pytest.approx(weighted)
    assert found["reduction"] == pytest.approx(1 - weighted / spread(of))
    assert found["exceeding"] == [
        label for label in range(3) if spread(of[labels == label]) > spread(of) * 1.000001
    ]


def test_the_weighted_mean_never_exceeds_the_whole_but_a_cluster_may() -> None:
    """Equation 10 holds for any labels; equation 5 of Theorem 2 does not, not even for the best clusters."""
    for seed in range(20):
        vectors, _ = clustered(seed=seed)
        found = gradient_variance(vectors @ vectors.T, np.random.default_rng(seed).integers(0, 4, 60), 4)
        assert found["weighted"] <= found["whole"] * (1 + 1e-12)
    tight, wide = np.full((90, 2), 5.0), np.array([[-5.0, 9.0], [-5.0, -9.0]] * 5)
    vectors = np.vstack([tight, wide])  # by direction: no better partition into two
    found = gradient_variance(vectors @ vectors.T, np.array([0] * 90 + [1] * 10), 2)
    assert found["clusters"][1] > found["whole"]
    assert found["exceeding"] == [1]
    assert found["weighted"] < found["whole"]


def test_labels_dealt_out_at_random_get_what_is_said_of_them() -> None:
    vectors, labels = clustered(n=40)
    random = np.random.default_rng(1)
    products = vectors @ vectors.T
    dealt = [gradient_variance(products, random.permutation(labels), 3)["reduction"] for _ in range(3000)]
    said = gradient_variance(products, labels, 3)["at_random"]
    assert said == pytest.approx(2 / 39)
    assert np.mean(dealt) == pytest.approx(said, rel=0.03)


def test_an_empty_cluster_has_no_variance_and_a_row_alone_has_zero() -> None:
    vectors, _ = clustered(n=5)
    found = gradient_variance(vectors @ vectors.T, np.array([0, 0, 0, 0, 2]), 3)
    assert found["clusters"][1] is None
    assert found["clusters"][2] == pytest.approx(0, abs=1e-9)
    assert found["at_random"] == pytest.approx(1 / 4)  # two clusters hold rows


def test_one_cluster_reduces_nothing() -> None:
    vectors, _ = clustered(n=10)
    gram, norms, _ = parts_of(vectors)
    found = cluster_quality(gram, norms, np.zeros(10, dtype=np.int64), 1)
    assert found["unit"]["reduction"] == pytest.approx(0, abs=1e-12)
    assert found["unit"]["exceeding"] == []
    assert found["mean_between"] is None


def test_the_means_inside_and_between_weigh_every_pair_the_same() -> None:
    vectors, labels = clustered()
    gram, norms, _ = parts_of(vectors)
    found = cluster_quality(gram, norms, labels, 3)
    pairs = [(i, j) for i in range(60) for j in range(60) if i != j]
    inside = np.mean([gram[i, j] for i, j in pairs if labels[i] == labels[j]])
    between = np.mean([gram[i, j] for i, j in pairs if labels[i] != labels[j]])
    assert found["mean_inside"] == pytest.approx(inside)
    assert found["mean_between"] == pytest.approx(between)
    assert found["cluster_rows"] == np.bincount(labels).tolist()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_bad_input_is_refused_in_words() -> None:
    gram, norms, labels = np.eye(4), np.ones(4), np.array([0, 0, 1, 1])
    with pytest.raises(TrainingError, match=r"got \(4, 4\), \(3,\)"):
        cluster_quality(gram, norms[:3], labels, 2)
    with pytest.raises(TrainingError, match="not finite"):
        cluster_quality(gram, np.array([1, 2, np.nan, 3]), labels, 2)
    with pytest.raises(TrainingError, match=r"outside 0\.\.0"):
        cluster_quality(gram, norms, labels, 1)
