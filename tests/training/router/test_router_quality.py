"""What is said of a router on held-out rows, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from training.router.quality import (
    confidence_shares,
    coverage_at,
    coverage_curve,
    expected_calibration_error,
    lower_bound,
    quality,
    surest_share,
)


def test_quality_of_four_rows() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]])
    found = quality(probabilities, np.array([0, 1, 1, 1]))
    assert found.agreement == 0.75
    assert found.rows == 4
    # Label 0: precision 1/2, recall 1; label 1: precision 1, recall 2/3.
    assert found.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.2 + 0.45) / 4)
    assert (found.low, found.high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson's of 3 in 4


def test_calibration_error_is_the_mean_gap_of_the_bins() -> None:
    confidence = np.array([0.95, 0.95, 1.0, 0.55])
    right = np.array([True, False, True, True])
    gap_of_the_last_bin = abs(2 / 3 - (0.95 + 0.95 + 1.0) / 3)
    assert expected_calibration_error(confidence, right) == pytest.approx(
        0.75 * gap_of_the_last_bin + 0.25 * 0.45
    )


def test_shares_of_confidence_fall_into_ten_bins() -> None:
    assert confidence_shares(np.array([0.0, 0.05, 0.55, 1.0])) == (0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0.25)


def test_the_lower_bound_is_one_sided() -> None:
    assert lower_bound(539, 539) >= 0.995 > lower_bound(538, 538)
    assert lower_bound(268, 268) >= 0.99 > lower_bound(267, 267)
    assert lower_bound(0, 0) == 0
    assert lower_bound(90, 100) == pytest.approx(binomtest(90, 100).proportion_ci(0.9, "wilson").low)


def test_the_surest_rows_that_reach_the_target_are_taken() -> None:
    confidence = np.linspace(1, 0, 2000)
    right = np.ones(2000, dtype=bool)
    right[1000:] = False
    threshold = surest_share(confidence, right, 0.99)
    assert threshold is not None
    taken = int((confidence >= threshold).sum())
    assert lower_bound(1000, taken) >= 0.99 > lower_bound(1000, taken + 1)


def test_rows_of_one_confidence_are_not_parted() -> None:
    confidence = np.array([0.9] * 400 + [0.5] * 400)
    right = np.array([True] * 500 + [False] * 300)
    assert surest_share(confidence, right, 0.99) == 0.9
    assert surest_share(confidence, np.ones(800, dtype=bool), 0.99) == 0.5


def test_too_few_rows_show_nothing() -> None:
    assert surest_share(np.ones(267), np.ones(267, dtype=bool), 0.99) is None
    assert surest_share(np.linspace(0, 1, 5000), np.arange(5000) % 20 > 0, 0.99) is None


def test_the_curve_goes_from_all_rows_to_the_surest() -> None:
    top = np.linspace(1, 0.5, 100)
    probabilities = np.stack([top, 1 - top], axis=1)
    labels = np.array([0] * 80 + [1] * 20)
    curve = coverage_curve(probabilities, labels)
    assert (curve[0]["coverage"], curve[0]["agreement"]) == (1.0, 0.8)
    assert (curve[-1]["coverage"], curve[-1]["agreement"]) == (0.05, 1.0)
    assert curve[4]["agreement"] == 1.0
    assert [point["confidence"] for point in curve] == sorted(point["confidence"] for point in curve)


def test_coverage_at_a_target_says_when_rows_can_not_tell() -> None:
    probabilities = np.tile([[0.9, 0.1]], (300, 1))
    assert coverage_at(probabilities, np.zeros(300, dtype=int)) == [
        {"target": 0.99, "coverage": 1.0},
        {"target": 0.999, "coverage": None},
    ]
