"""How sure a difference between two methods is that were judged on the same rows, with the same seeds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 2000

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """Loss per response token of one method minus another's, and its 95 % interval; below zero the first is better."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"

    @property
    def sign(self) -> int:
        """-1 if the whole interval is below zero, 1 if above, else 0."""
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def paired_difference(one: Numbers, other: Numbers, tokens: Numbers) -> Difference:
    """Difference of mean loss per token, by resampling seeds and rows together.

    `one` and `other` [S, n] are summed losses of the same rows by seed, `tokens` [n] (or [S, n]) the rows' response
    tokens. Rows are drawn anew within each seed that is drawn.
    """
    one, other = np.atleast_2d(one), np.atleast_2d(other)
    tokens = np.broadcast_to(tokens, one.shape)
    gap = one - other  # [S, n]
    draw = np.random.default_rng(0)
    seeds, rows = gap.shape
    found = np.empty(_RESAMPLES)
    for number in range(_RESAMPLES):
        losses = counts = 0.0
        for seed in list(draw.integers(seeds, size=seeds)):
            picked = draw.integers(rows, size=rows)
            losses += gap[seed, picked].sum()
            counts += tokens[seed, picked].sum()
        found[number] = losses / counts
    low, high = np.quantile(found, [0.025, 0.975])
    return Difference(float(gap.sum() / tokens.sum()), float(low), float(high))
