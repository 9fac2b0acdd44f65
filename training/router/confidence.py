"""How far the served router can be believed, and below which confidence the fallback answers instead."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Calibration
from training.progress import Narrator
from training.router.quality import confidence_shares, quality, surest_share
from training.router.rows import JudgedRows


def calibrate_router(
    probabilities: NDArray[np.float32],
    temperature: float,
    held_out: JudgedRows,
    target: float | None,
    narrator: Narrator,
) -> Calibration:
    """Return what the manifest says of probabilities `[n, K]` of the held-out rows; `target` is for abstaining."""
    others = ~held_out.fitted
    judged, labels = probabilities[others], held_out.labels[others]
    measured = quality(judged, labels)
    shares = np.bincount(judged.argmax(1), minlength=probabilities.shape[1]) / len(judged)
    return Calibration(
        temperature=temperature,
        held_out_rows=len(judged),
        fitted_rows=int(held_out.fitted.sum()),
        agreement=measured.agreement,
        macro_f1=measured.macro_f1,
        ece=measured.ece,
        confidence=confidence_shares(judged.max(1)),
        shares=tuple(float(share) for share in shares),
        **_abstention(probabilities, held_out, target, narrator),
    )


def _abstention(
    probabilities: NDArray[np.float32], held_out: JudgedRows, target: float | None, narrator: Narrator
) -> dict[str, float | None]:
    """Choose the threshold below which the fallback answers, and say what it costs."""
    if target is None:
        return {}
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == held_out.labels
    fitted, others = held_out.fitted, ~held_out.fitted
    threshold = surest_share(confidence[fitted], right[fitted], target)
    if threshold is None:
        narrator.warn(
            f"router.target_agreement = {target:g}: {int(fitted.sum()):,} held-out rows don't show it at any "
            "confidence, so the router never abstains. Give more rows with data.held_out, or a lower target"
        )
        return {"target_agreement": target}
    covered = confidence[others] >= threshold
    found = {
        "threshold": threshold,
        "target_agreement": target,
        "coverage": float(covered.mean()),
        "covered_agreement": float(right[others][covered].mean()) if covered.any() else None,
    }
    narrator.say(
        f"    below a confidence of {threshold:.3f} the fallback answers: {found['coverage']:.1%} are routed, and "
        f"{found['covered_agreement'] or 0:.2%} of those agree"
    )
    return found
