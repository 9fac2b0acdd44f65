"""The difference of two methods over all rows together, and how a table says it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import Difference, paired_differences

_RESAMPLES = 2000


def overall_difference(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], tokens: NDArray[np.int64]
) -> Difference:
    """Loss per token of the first less that of the second: summed losses [n] or [S, n] of the same rows, tokens [n]."""
    ours, theirs = np.atleast_2d(ours), np.atleast_2d(theirs)
    return paired_differences(ours, theirs, tokens, ["all"] * len(tokens), _RESAMPLES)["all"]


def told(difference: Difference) -> str:
    """As tables say it: the value and its 95 % interval."""
    return f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def side(difference: Difference) -> int:
    """-1 if the whole interval lies below zero, 1 if above, 0 if zero is in it."""
    return -1 if difference.high < 0 else 1 if difference.low > 0 else 0
