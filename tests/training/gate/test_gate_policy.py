"""The gate's decisions, on planted losses where the right answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.gate.policy import (
    FEWEST_ROWS,
    FOLDS,
    NEVER,
    choose_thresholds,
    cross_fitted,
    decide,
    draw_folds,
    interval,
    judged,
    served,
)


def rows_of(
    chosen: NDArray[np.int64], confidence: NDArray[np.float64], gain: NDArray[np.float64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Losses [n, 1 + k] and probabilities [n, k]: the router's choice gains `gain`, every other expert loses 9."""
    n = len(chosen)
    losses = np.full((n, 1 + k), 11.0)
    losses[:, 0] = 2.0
    losses[np.arange(n), 1 + chosen] = 2.0 + gain
    probabilities = np.repeat((1 - confidence[:, None]) / (k - 1), k, axis=1)
    probabilities[np.arange(n), chosen] = confidence
    return losses, probabilities


def folds(n: int) -> NDArray[np.int64]:
    return np.arange(n) % FOLDS


def test_an_expert_that_helps_where_the_router_is_sure_answers_there_and_nowhere_else() -> None:
    draw = np.random.default_rng(0)
    chosen = np.repeat([0, 1, 2], 100)
    confidence = np.tile(np.repeat([0.93, 0.65], 50), 3)
    # 0 helps wherever it is asked, 1 where the router is sure and harms elsewhere, 2 harms.
    gain = np.select([chosen == 0, (chosen == 1) & (confidence > 0.9), chosen == 1], [-0.3, -0.5, 0.4], 0.2)
    losses, probabilities = rows_of(chosen, confidence, gain + 0.1 * draw.normal(size=300), 3)
    thresholds = decide(losses, probabilities, folds(300))
    assert thresholds.tolist() == [0.0, 0.9, NEVER]
    differences = served(losses, probabilities, thresholds)
    expected = np.select([chosen == 0, (chosen == 1) & (confidence > 0.9)], [-0.3, -0.5], 0.0)
    assert differences == pytest.approx(expected, abs=0.5)
    assert differences.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert judged(losses, probabilities, folds(300)).mean() == pytest.approx(expected.mean(), abs=0.02)


def test_where_nothing_helps_the_fallback_answers_everything() -> None:
    chosen, confidence = np.repeat([0, 1], 60), np.tile([0.99, 0.55], 60)
    losses, probabilities = rows_of(chosen, confidence, np.full(120, 0.01), 2)
    assert decide(losses, probabilities, folds(120)).tolist() == [NEVER, NEVER]
    assert interval(judged(losses, probabilities, folds(120))) == (0.0, 0.0, 0.0)


def test_noise_is_no_gain() -> None:
    """Of a hundred draws without any gain few are taken for one, and what those cost is small."""
    served_any, costs = 0, []
    for seed in range(100):
        draw = np.random.default_rng(seed)
        chosen, confidence = draw.integers(0, 4, 200), draw.uniform(0.3, 1, 200)
        losses, probabilities = rows_of(chosen, confidence, draw.normal(size=200), 4)
        served_any += bool(np.isfinite(decide(losses, probabilities, folds(200))).any())
        costs.append(judged(losses, probabilities, folds(200)).mean())
    assert served_any <= 25  # one standard error: 16 of 100 are to be expected
    assert abs(np.mean(costs)) < 0.02  # an expert by chance: 0.07 is one row's share of a standard error


def test_one_standard_error_towards_the_fallback() -> None:
    chosen, confidence = np.zeros(100, dtype=np.int64), np.full(100, 0.97)
    gain = np.tile([-1.0, 1.0], 50)  # mean 0, standard error 0.1005
    for shift, answers in ((-0.09, False), (-0.12, True)):
        losses, probabilities = rows_of(chosen, confidence, gain + shift, 2)
        assert bool(np.isfinite(choose_thresholds(losses, probabilities)[0])) is answers


def test_of_two_thresholds_that_can_not_be_told_apart_the_simpler_is_taken() -> None:
    chosen, confidence = np.zeros(80, dtype=np.int64), np.repeat([0.97, 0.75], 40)
    gain = np.where(
        confidence > 0.9, -1.0, np.tile([0.5, -0.45], 40)
    )  # below 0.9: nothing, to a standard error
    losses, probabilities = rows_of(chosen, confidence, gain, 2)
    assert choose_thresholds(losses, probabilities)[0] == 0.0
    surely_worse = np.where(confidence > 0.9, -1.0, 0.5)
    losses, probabilities = rows_of(chosen, confidence, surely_worse, 2)
    assert choose_thresholds(losses, probabilities)[0] == 0.95


def test_an_expert_of_too_few_rows_is_not_served() -> None:
    for count, answers in ((FEWEST_ROWS - 1, False), (FEWEST_ROWS, True)):
        losses, probabilities = rows_of(np.zeros(count, int), np.full(count, 0.9), np.full(count, -1.0), 2)
        assert np.isfinite(choose_thresholds(losses, probabilities)).tolist() == [answers, False]


def test_no_fold_is_judged_by_thresholds_that_it_chose() -> None:
    """The expert helps in one fold alone: the others would never serve it, so that fold is not served."""
    chosen, confidence = np.zeros(100, dtype=np.int64), np.full(100, 0.97)
    gain = np.where(folds(100) == 3, -5.0, 0.1)
    losses, probabilities = rows_of(chosen, confidence, gain, 2)
    assert choose_thresholds(losses, probabilities)[0] == 0.0  # on all rows it looks worth it
    differences = cross_fitted(losses, probabilities, folds(100))
    assert (differences[folds(100) == 3] == 0).all()
    assert (judged(losses, probabilities, folds(100))[folds(100) == 3] == 0).all()


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    found = [interval(draw.normal(0.5, 1.0, size=60)) for _ in range(200)]
    assert 0.9 <= np.mean([low <= 0.5 <= high for _, low, high in found]) <= 0.98
    assert all(low < mean < high for mean, low, high in found)
    assert interval(draw.normal(size=60)) != found[0]


def test_rows_of_one_prompt_share_a_fold() -> None:
    prompts = [f"prompt {place // 3}" for place in range(150)]
    drawn = draw_folds(prompts, seed=0)
    assert np.bincount(drawn).tolist() == [30] * FOLDS
    assert all(len(set(drawn[start : start + 3])) == 1 for start in range(0, 150, 3))
    assert (draw_folds(prompts, seed=1) != drawn).any()
