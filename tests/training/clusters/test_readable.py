"""What a router makes of prompts while clusters form: out of fold, and never without a word for a cluster."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.clusters import readable
from training.clusters.readable import UNKNOWN, Prompts, in_folds
from training.clusters.readable_start import readable_clusters

N, H, K = 120, 7, 3


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, K, N)


def prompts_of(labels: np.ndarray, told: float = 1.0, seed: int = 0) -> Prompts:
    """Prompts that tell the labels, as far as `told`; each stands twice."""
    noise = np.random.default_rng(1).normal(size=(N, H))
    embeddings = noise + 3 * told * np.eye(K, H)[labels]
    return in_folds(embeddings.astype(np.float32), range(N), [str(row // 2) for row in range(N)], seed)


def test_rows_of_one_prompt_are_in_one_fold(labels: np.ndarray) -> None:
    folds = prompts_of(labels).folds
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds).tolist() == [24] * 5
    assert not (folds == prompts_of(labels, seed=1).folds).all()


def test_a_row_is_asked_about_by_a_head_on_the_other_folds(labels: np.ndarray) -> None:
    prompts = prompts_of(labels)
    expected = cross_val_predict(
        make_pipeline(StandardScaler(), Ridge(alpha=H)),
        prompts.embeddings,
        np.eye(K)[labels],
        cv=PredefinedSplit(prompts.folds),
    ).clip(0.01)
    found = prompts.log_chances(labels, K)
    assert np.exp(found) == pytest.approx(expected / expected.sum(1, keepdims=True), abs=1e-5)


def test_what_a_row_is_called_says_nothing_of_its_prompt(labels: np.ndarray) -> None:
    """Random labels: a head that had seen the row, or its twin, would know them."""
    prompts = prompts_of(labels, told=0)
    shuffled = np.repeat(np.random.default_rng(2).integers(0, K, N // 2), 2)
    wide = Prompts(
        np.random.default_rng(3).normal(size=(N, 400)).astype(np.float32), prompts.rows, prompts.folds
    )
    seen = wide.head(shuffled, K).log_chances(wide.embeddings)
    assert (seen.argmax(1) == shuffled).mean() > 0.9
    assert (wide.log_chances(shuffled, K).argmax(1) == shuffled).mean() < 0.45


def test_rows_without_a_label_are_asked_about_by_a_head_on_all_labelled_ones(labels: np.ndarray) -> None:
    prompts = prompts_of(labels)
    known = labels.copy()
    known[60:] = UNKNOWN
    found = prompts.log_chances(known, K)
    assert np.array_equal(found[60:], prompts.head(known, K).log_chances(prompts.embeddings[60:]))
    assert np.array_equal(found[:60], prompts.of(range(60)).log_chances(labels[:60], K))
    assert (found.argmax(1) == labels).mean() > 0.9


def test_it_is_finite_where_a_cluster_has_no_row(labels: np.ndarray) -> None:
    prompts = prompts_of(labels)
    found = prompts.log_chances(labels, K + 1)
    assert np.isfinite(found).all()
    assert (found[:, K] < -4).all()
    assert np.exp(found).sum(1) == pytest.approx(np.ones(N), abs=1e-5)
    assert (prompts.log_chances(np.zeros(N, dtype=np.int64), 1) == 0).all()


def test_a_sample_of_many_rows_teaches_a_head(labels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readable, "_MOST_ROWS", 40)
    prompts = prompts_of(labels)
    found = prompts.log_chances(labels, K)
    assert np.array_equal(found, prompts.log_chances(labels, K))
    assert (found.argmax(1) == labels).mean() > 0.85


def plain(gram: np.ndarray, labels: np.ndarray, prompts: Prompts, weight: float) -> np.ndarray:
    """Row by row, from lists."""
    for _ in range(30):
        chances = prompts.log_chances(labels, K)
        fresh = []
        for row in range(N):
            scores = []
            for k in range(K):
                others = [other for other in range(N) if labels[other] == k and other != row]
                length = np.sqrt(gram[np.ix_(others, others)].sum())
                scores.append(gram[row, others].sum() / length + weight * chances[row, k])
            fresh.append(int(np.argmax(scores)))
        moved = float(np.mean(np.asarray(fresh) != labels))
        if len(set(fresh)) < K:
            break
        labels = np.asarray(fresh)
        if moved <= 0.002:
            break
    return labels


@pytest.mark.parametrize("weight", [0.02, 0.3])
def test_readable_clusters_leave_a_row_out_of_its_own(labels: np.ndarray, weight: float) -> None:
    rows = (
        np.random.default_rng(4).normal(size=(N, 40)) + 1.5 * np.eye(K, 40)[(labels + np.arange(N) % 2) % K]
    )
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    start = np.random.default_rng(5).integers(0, K, N)
    prompts = prompts_of(labels)
    found = readable_clusters(rows @ rows.T, start, K, lambda now: prompts.log_chances(now, K), weight)
    assert np.array_equal(found, plain(rows @ rows.T, start, prompts, weight))
    # A large weight draws rows to what the prompts say.
    agreement = (prompts.log_chances(found, K).argmax(1) == found).mean()
    assert (agreement > 0.75) == (weight == 0.3)


def test_a_turn_that_would_empty_a_cluster_is_not_taken(labels: np.ndarray) -> None:
    gram = np.eye(N)
    start = np.zeros(N, dtype=np.int64)
    start[0] = 1
    found = readable_clusters(gram, start, 2, lambda now: np.zeros((N, 2)), 0.1)
    assert set(found.tolist()) == {0, 1}
