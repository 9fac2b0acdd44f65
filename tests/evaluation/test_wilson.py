from __future__ import annotations

import pytest
from scipy.stats import binomtest

from evaluation.intervals import wilson_interval


@pytest.mark.parametrize(("right", "total"), [(0, 10), (10, 10), (3, 7), (181, 200)])
def test_interval_is_scipys(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        wilson_interval(0, 0)
