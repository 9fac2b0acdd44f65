from __future__ import annotations

import numpy as np

from evaluation.intervals import overall_difference, side, told

TOKENS = np.full(50, 4)


def test_a_difference_that_every_row_shares_is_sure_and_one_that_none_shares_is_not() -> None:
    one = np.random.default_rng(0).normal(8, 3, 50)
    sure = overall_difference(one - 0.4, one, TOKENS)
    assert told(sure) == "-0.1000 [-0.1000, -0.1000]"
    assert side(sure) == -1
    unsure = overall_difference(np.random.default_rng(1).permutation(one), one, TOKENS)
    assert unsure.low < 0 < unsure.high
    assert side(unsure) == 0


def test_seeds_that_disagree_widen_the_interval() -> None:
    rows = np.zeros((2, 50))
    agreeing = overall_difference(rows + 0.4, rows, TOKENS)
    disagreeing = overall_difference(np.stack([rows[0] + 4.4, rows[0] - 3.6]), rows, TOKENS)
    assert agreeing.mean == np.float64(0.1) or abs(agreeing.mean - 0.1) < 1e-12
    assert abs(disagreeing.mean - 0.1) < 1e-12
    assert side(agreeing) == 1
    assert side(disagreeing) == 0
