"""How right a router is on held-out rows, and how far its confidence can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from evaluation.wilson import wilson_interval

_BINS = 10
_TARGETS = (0.99, 0.999)


@dataclass(frozen=True)
class Accuracy:
    """One router on n held-out rows."""

    rows: int
    agreement: float
    interval: tuple[float, float]
    """95 %, Wilson."""
    macro_f1: float
    ece: float
    coverage: dict[str, Any]
    """By target agreement: see `coverage_at`."""


def accuracy(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Accuracy:
    """Judge probabilities `[n, K]` by Stage II labels `[n]`."""
    chosen = probabilities.argmax(1)
    right = chosen == labels
    return Accuracy(
        rows=len(labels),
        agreement=float(right.mean()),
        interval=wilson_interval(int(right.sum()), len(labels)),
        macro_f1=float(f1_score(labels, chosen, average="macro", zero_division=0)),
        ece=calibration_error(probabilities.max(1), right),
        coverage={f"{target:g}": coverage_at(probabilities.max(1), right, target) for target in _TARGETS},
    )


def calibration_error(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> float:
    """Expected calibration error over ten equal bins of confidence `[n]`."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    error = 0.0
    for place in range(_BINS):
        inside = bins == place
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return float(error)


def coverage_at(
    confidence: NDArray[np.floating], right: NDArray[np.bool_], target: float
) -> dict[str, float | int | str | None]:
    """Return the largest share of rows, the most confident first, of which `target` are routed right.

    `coverage` is that share as counted; `resolved` is the share at which even the lower end of the 95 % interval
    reaches the target, None if that is nowhere: then these rows can't tell. `note` says so, with the number of rows
    that a router without any mistake would need.
    """
    order = np.argsort(-confidence, kind="stable")
    hits = np.cumsum(right[order])
    # A threshold can't part rows of equal confidence.
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)) + 1
    counted = [int(n) for n in ends if hits[n - 1] >= target * n]
    resolved = [n for n in counted if wilson_interval(int(hits[n - 1]), n)[0] >= target]
    needed = _faultless_rows(target)
    if resolved:
        note = None
    elif len(right) < needed:
        note = (
            f"{len(right)} rows can't resolve it: even without a mistake {needed} are needed, so nothing may "
            "be switched on by it"
        )
    else:
        note = "no confidence is shown to reach it by these rows, so nothing may be switched on by it"
    return {
        "coverage": max(counted, default=0) / len(right),
        "resolved": max(resolved) / len(right) if resolved else None,
        "note": note,
    }


def _faultless_rows(target: float) -> int:
    """Rows n, all right, at which Wilson's lower end n / (n + z²) reaches the target."""
    z2 = 1.959963984540054**2
    return ceil(target * z2 / (1 - target))
