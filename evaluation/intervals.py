"""How sure a difference of losses is: both methods on the same resampled rows and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_BLOCK = 200  # resamples at a time


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
