"""How good a router is on held-out rows: agreement, macro F1, calibration error, and what abstaining would buy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from bundle.manifest import CONFIDENCE_BINS

MOST_LOST = 0.002
"""Of the agreement with the labels, against the encoder alone: what a cheaper router may cost."""
RouterScores = NDArray[np.float32]
_COVERAGES = tuple(share / 20 for share in range(20, 0, -1))
_TARGETS = (0.99, 0.999)

Labels = NDArray[np.integer]
Probabilities = NDArray[np.floating]


@dataclass(frozen=True)
class Quality:
    """A router on held-out rows: the figures of Table 3, as shares of one, but for latency."""

    agreement: float
    low: float
    """Lower end of the agreement's 95 % Wilson interval."""
    high: float
    macro_f1: float
    ece: float
    rows: int

    def summary(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def said_of_agreement(agreement: float, labels: Labels) -> str:
    """Set an agreement on rows of these labels [n] beside what always naming the most frequent one would have.

    At chance: not above it with 95 % confidence (exact binomial test).
    """
    rows = len(labels)
    commonest = int(np.bincount(labels).max())
    right = round(agreement * rows)
    naming = f"always naming the largest cluster would be right for {commonest / rows:.1%}"
    above = commonest < rows and binomtest(right, rows, commonest / rows, alternative="greater").pvalue < 0.05
    return (
        f"({naming})"
        if above
        else f"- no better than chance: {naming}. The router can't tell them apart by the prompt"
    )


def quality(probabilities: Probabilities, labels: Labels) -> Quality:
    """Judge probabilities `[n, K]` by labels `[n]`."""
    chosen = probabilities.argmax(axis=1)
    right = chosen == labels
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return Quality(
        agreement=float(right.mean()),
        low=float(interval.low),
        high=float(interval.high),
        macro_f1=float(f1_score(labels, chosen, average="macro")),
        ece=expected_calibration_error(probabilities.max(axis=1), right),
        rows=len(right),
    )


def expected_calibration_error(confidence: Probabilities, right: NDArray[np.bool_]) -> float:
    """Mean over ten equal bins of |share right - mean confidence|, each bin by its rows: both are `[n]`."""
    bins = _bins(confidence)
    gaps = [
        abs(right[bins == place].mean() - confidence[bins == place].mean()) * (bins == place).mean()
        for place in np.unique(bins)
    ]
    return float(sum(gaps))


def confidence_shares(confidence: Probabilities) -> tuple[float, ...]:
    """Return the share of rows whose top probability `[n]` lies in each tenth of [0, 1]; 1 lies in the last."""
    counts = np.bincount(_bins(confidence), minlength=CONFIDENCE_BINS)
    return tuple(float(count) for count in counts / len(confidence))


def _bins(confidence: Probabilities) -> NDArray[np.int64]:
    return np.minimum((confidence * CONFIDENCE_BINS).astype(np.int64), CONFIDENCE_BINS - 1)


def lower_bound(right: int, total: int) -> float:
    """Return what the true share is above with 95 % confidence: Wilson's bound, one-sided."""
    # A two-sided interval of 90 % leaves 5 % on either side.
    return float(binomtest(right, total).proportion_ci(0.90, method="wilson").low) if total else 0.0


def surest_share(confidence: NDArray[np.floating], right: NDArray[np.bool_], target: float) -> float | None:
    """Return the lowest confidence from which on the share right is `target` or more, with 95 % confidence.

    `confidence` and `right` are `[n]`. Taken is the largest set of surest rows whose `lower_bound` reaches the
    target, never one that parts rows of equal confidence. None: no set does, be it that the router is not that good
    or that the rows are too few to tell (without a single error, 99 % takes 268 rows and 99.5 % takes 539).
    """
    order = np.argsort(-confidence, kind="stable")
    correct = np.cumsum(right[order])
    ends = np.flatnonzero(np.diff(confidence[order], append=-np.inf) != 0)  # the last row of each confidence
    # Wilson's bound is below the share itself: most sets need no look.
    for end in reversed(ends[correct[ends] >= target * (ends + 1)]):
        if lower_bound(int(correct[end]), int(end) + 1) >= target:
            return float(confidence[order[end]])
    return None


def coverage_curve(probabilities: Probabilities, labels: Labels) -> list[dict[str, float]]:
    """Return agreement over the surest 100, 95, ..., 5 % of the rows: coverage, agreement, confidence."""
    confidence = probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (probabilities.argmax(axis=1) == labels)[order]
    counts = [max(1, round(coverage * len(order))) for coverage in _COVERAGES]
    return [
        {
            "coverage": count / len(order),
            "agreement": float(right[:count].mean()),
            "confidence": float(confidence[order[count - 1]]),
        }
        for count in counts
    ]


def coverage_at(
    probabilities: Probabilities, labels: Labels, targets: Sequence[float] = _TARGETS
) -> list[dict[str, Any]]:
    """Return, for each target agreement, the share of rows that can be routed at it; None: the rows can't show it."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = []
    for target in targets:
        threshold = surest_share(confidence, right, target)
        covered = None if threshold is None else float((confidence >= threshold).mean())
        found.append({"target": target, "coverage": covered})
    return found
