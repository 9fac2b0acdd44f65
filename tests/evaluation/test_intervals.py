"""The paired bootstrap on differences that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from evaluation.intervals import overall_difference, paired_differences, side, told, wilson_interval

TOKENS = np.array([10, 20, 5, 5])
SOURCES = ["a", "a", "b", "b"]


def test_the_point_is_the_difference_of_losses_per_token() -> None:
    theirs = np.ones((2, 4)) * TOKENS
    ours = theirs + np.array([[3.0, 0, 1, 1], [0, 0, 0, 0]])
    found = paired_differences(ours, theirs, TOKENS, SOURCES, 300)
    assert found["a"].mean == pytest.approx(1.5 / 30)
    assert found["b"].mean == pytest.approx(1.0 / 10)
    assert found["mean"].mean == pytest.approx((1.5 / 30 + 1.0 / 10) / 2)
    assert found["a"].low <= found["a"].mean <= found["a"].high


def test_rows_are_paired_so_their_own_difficulty_does_not_count() -> None:
    theirs = np.random.default_rng(0).uniform(0, 100, (3, 4)) * TOKENS
    found = paired_differences(theirs + 0.25 * TOKENS, theirs, TOKENS, SOURCES, 300)
    for name in ("a", "b", "mean"):
        assert (found[name].low, found[name].high) == pytest.approx((0.25, 0.25))


def test_seeds_that_disagree_widen_the_interval() -> None:
    theirs = np.zeros((3, 4))
    agree = theirs + 0.1 * TOKENS
    disagree = agree + np.array([[-0.3], [0.0], [0.3]]) * TOKENS
    narrow = paired_differences(agree, theirs, TOKENS, SOURCES, 400)["mean"]
    wide = paired_differences(disagree, theirs, TOKENS, SOURCES, 400)["mean"]
    assert wide.mean == pytest.approx(narrow.mean)
    assert wide.low < 0 < wide.high
    assert narrow.low > 0


def test_the_interval_of_many_rows_is_that_of_theory() -> None:
    draw = np.random.default_rng(3)
    gaps = draw.normal(0.5, 2.0, (1, 400))
    found = paired_differences(gaps, np.zeros((1, 400)), np.ones(400, dtype=int), ["a"] * 400, 2000)["a"]
    half = 1.96 * gaps.std() / 20
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (3, 7), (181, 200)])
def test_the_interval_of_a_share_is_scipys(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="not less than 1"):
        wilson_interval(0, 0)


FIFTY_ROWS = np.full(50, 4)


def test_a_difference_that_every_row_shares_is_sure_and_one_that_none_shares_is_not() -> None:
    one = np.random.default_rng(0).normal(8, 3, 50)
    sure = overall_difference(one - 0.4, one, FIFTY_ROWS)
    assert told(sure) == "-0.1000 [-0.1000, -0.1000]"
    assert side(sure) == -1
    unsure = overall_difference(np.random.default_rng(1).permutation(one), one, FIFTY_ROWS)
    assert unsure.low < 0 < unsure.high
    assert side(unsure) == 0


def test_seeds_that_disagree_widen_the_interval_of_the_whole() -> None:
    rows = np.zeros((2, 50))
    agreeing = overall_difference(rows + 0.4, rows, FIFTY_ROWS)
    disagreeing = overall_difference(np.stack([rows[0] + 4.4, rows[0] - 3.6]), rows, FIFTY_ROWS)
    assert agreeing.mean == np.float64(0.1) or abs(agreeing.mean - 0.1) < 1e-12
    assert abs(disagreeing.mean - 0.1) < 1e-12
    assert side(agreeing) == 1
    assert side(disagreeing) == 0
