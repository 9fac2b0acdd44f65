"""How sure a difference of losses is: both methods on the same resampled rows and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

_BLOCK = 200  # resamples at a time
_RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Ours less theirs, and where 95 % of the resamples lie."""

    mean: float
    low: float
    high: float


def paired_differences(
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    tokens: NDArray[np.int64],
    sources: Sequence[str],
    resamples: int,
) -> dict[str, Difference]:
    """Return the differences in loss per token, for each source and, as "mean", for the mean over sources.

    `ours` and `theirs` are summed losses [S, n] of S seeds and n rows, `tokens` [n] and `sources` [n] the rows'.
    Seeds are drawn with replacement, and so are rows, within their source. With one seed only rows vary.
    """
    gaps = ours - theirs  # [S, n]
    names = list(dict.fromkeys(sources))
    columns = [np.flatnonzero(np.asarray(sources) == name) for name in names]
    draw = np.random.default_rng(0)
    blocks = []
    for start in range(0, resamples, _BLOCK):
        count = min(_BLOCK, resamples - start)
        seeds = draw.multinomial(len(gaps), np.full(len(gaps), 1 / len(gaps)), count) / len(gaps)  # [b, S]
        mixed = seeds @ gaps  # [b, n]
        block = []
        for places in columns:
            picks = draw.multinomial(len(places), np.full(len(places), 1 / len(places)), count)  # [b, m]
            block.append((picks * mixed[:, places]).sum(1) / (picks @ tokens[places]))
        blocks.append(np.stack(block, axis=1))  # [b, sources]
    drawn = np.concatenate(blocks)  # [R, sources]
    point = np.array([gaps[:, places].mean(0).sum() / tokens[places].sum() for places in columns])
    found = {name: _interval(point[at], drawn[:, at]) for at, name in enumerate(names)}
    return found | {"mean": _interval(point.mean(), drawn.mean(1))}


def _interval(point: float, drawn: NDArray[np.float64]) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float(point), float(low), float(high))


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


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % Wilson score interval of `right` out of `total`, as shares in [0, 1].

    Raises:
        ValueError: nothing was counted.

    """
    low, high = binomtest(right, total).proportion_ci(method="wilson")
    return float(low), float(high)
