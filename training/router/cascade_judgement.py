"""What a cascade is worth, on held-out rows that chose nothing of it, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bundle.manifest import CascadeRecord
from training.progress import Narrator
from training.router.cascade import AGREES, MOST_LOST, USEFUL_SHARE, Cascade, Scores, words_of
from training.router.precision import ChosenPrecision
from training.router.rows import JudgedRows


@dataclass(frozen=True)
class JudgedCascade:
    """Whether a cascade is used, and what it was found to be worth; all None where none was fitted."""

    used: CascadeRecord | None
    found: dict[str, Any] | None
    scores: Scores | None
    """Of all held-out rows [n, K], none by a model that was fitted to its row."""


def judge_cascade(
    cascade: Cascade | None,
    held_out: JudgedRows,
    encoder: ChosenPrecision,
    float32: Scores,
    max_tokens: int,
    narrator: Narrator,
) -> JudgedCascade:
    """Say on the rows that chose nothing what the cascade is worth, and whether it is.

    What is lost is measured against the encoder's scores in `float32` `[n, K]`, so what int8 costs counts as well.
    """
    if cascade is None:
        return JudgedCascade(None, None, None)
    others = ~held_out.fitted
    own = np.zeros_like(float32)
    own[held_out.fitted] = cascade.own_scores
    own[others] = cascade.scores(
        words_of([held_out.texts[place] for place in np.flatnonzero(others)], max_tokens)
    )
    sure = cascade.answers(own[others])
    linear, labels = own[others].argmax(1), held_out.labels[others]
    same = linear == encoder.alone[others].argmax(1)
    share = float(sure.mean())
    agreement = float(same[sure].mean()) if sure.any() else 0.0
    served = np.where(sure, linear, encoder.scores[others].argmax(1))
    lost = float((float32[others].argmax(1) == labels).mean() - (served == labels).mean())
    reason = _why_not(cascade, share, lost)
    confidence = cascade.confidence(own[others])
    order = np.argsort(-confidence, kind="stable")
    curve = [
        {"share": count / len(order), "agreement": float(same[order[:count]].mean())}
        for count in (max(1, round(tenth * len(order) / 10)) for tenth in range(1, 11))
    ]
    found = {"share": share, "agreement": agreement, "lost": lost, "reason": reason, "curve": curve}
    if reason:
        narrator.say(f"    no cascade: {reason}")
        return JudgedCascade(None, found, None)
    narrator.say(
        f"    the cascade answers {share:.1%} and says what the encoder says on {agreement:.2%} of them; it costs "
        f"{100 * lost:.2f} points of agreement with the clusters"
    )
    assert cascade.threshold is not None
    used = CascadeRecord(
        threshold=cascade.threshold, share=share, agreement=agreement, rows=int(others.sum())
    )
    return JudgedCascade(used, found, own)


def _why_not(cascade: Cascade, share: float, lost: float) -> str | None:
    if cascade.threshold is None:
        return (
            f"the {len(cascade.own_scores):,} held-out rows for it don't show {AGREES:.1%} agreement with the encoder "
            "at any confidence"
        )
    if share < USEFUL_SHARE:
        return f"it would answer only {share:.1%} of the rows, less than {USEFUL_SHARE:.0%}"
    if lost > MOST_LOST:
        return f"it would cost {100 * lost:.2f} points of agreement with the clusters, more than {100 * MOST_LOST:.1f}"
    return None
