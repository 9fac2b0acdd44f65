"""When the expert of the router's choice answers, and when the fallback does in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bundle.manifest import Manifest

Verdict = Literal["routed", "unfamiliar", "low_confidence", "no_gain"]


@dataclass(frozen=True)
class Policy:
    """What a bundle's manifest says of it, for the service and for `gradientspace route` alike."""

    threshold: float | None
    """Below this confidence the router is not to be believed; None: it always is."""
    helps_from: tuple[float | None, ...]
    """`[K]`, by router label: the confidence from which on its expert was measured to help; None: it never does."""
    unfamiliar: Literal["fallback", "base"] | None
    """Who answers what is unlike anything in training; None: the router is asked all the same."""

    @classmethod
    def of(cls, manifest: Manifest) -> Policy:
        """Read it; without a gate every expert answers whatever is routed to it, as in the paper."""
        gate, threshold = manifest.gate, manifest.calibration.threshold
        record = manifest.router.unfamiliar
        unfamiliar = None if record is None else record.answers
        if gate is None:
            return cls(threshold, (0.0,) * len(manifest.label_order), unfamiliar)
        return cls(threshold, tuple(label.threshold for label in gate.labels), unfamiliar)

    def verdict(self, label: int, confidence: float, unfamiliar: bool) -> Verdict:
        """Say why the expert of this label answers (`routed`) or another does (the others).

        What is `unfamiliar` is so before anything else: neither confidence nor gain was measured on its like.
        """
        if unfamiliar and self.unfamiliar is not None:
            return "unfamiliar"
        if self.threshold is not None and confidence < self.threshold:
            return "low_confidence"
        least = self.helps_from[label]
        return "no_gain" if least is None or confidence < least else "routed"
