"""The interval around a share that was counted."""

from __future__ import annotations

from math import sqrt

_Z_95 = 1.959963984540054


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of `right` out of `total`, as shares in [0, 1].

    Raises:
        ValueError: nothing was counted.

    """
    if total <= 0:
        raise ValueError("An interval needs at least one row.")
    share, z2 = right / total, _Z_95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z_95 * sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)
