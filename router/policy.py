"""When the expert of the router's choice answers, and when the fallback does in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bundle.manifest import Manifest

Verdict = Literal["routed", "low_confidence", "no_gain"]


@dataclass(frozen=True)
class Policy:
    """What a bundle's manifest says of it, for the service and for `gradientspace route` alike."""

    threshold: float | None
    """Below this confidence the router is not to be believed; None: it always is."""
    helps_from: tuple[float | None, ...]
    """`[K]`, by router label: the confidence from which on its expert was measured to help; None: it never does."""

    @classmethod
    def of(cls, manifest: Manifest) -> Policy:
        """Read it; without a gate every expert answers whatever is routed to it, as in the paper."""
        gate, threshold = manifest.gate, manifest.calibration.threshold
        if gate is None:
            return cls(threshold, (0.0,) * len(manifest.label_order))
        return cls(threshold, tuple(label.threshold for label in gate.labels))

    def verdict(self, label: int, confidence: float) -> Verdict:
        """Say why the expert of this label answers (`routed`) or the fallback does (the others)."""
        if self.threshold is not None and confidence < self.threshold:
            return "low_confidence"
        least = self.helps_from[label]
        return "no_gain" if least is None or confidence < least else "routed"
