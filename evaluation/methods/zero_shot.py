"""Zero-shot: the base as it is."""

from __future__ import annotations

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.partition import Fitted, Model, alone
from evaluation.seed.seed_run import SeedRun


class ZeroShot(Method):
    """Nothing is trained."""

    name = "zero-shot"
    title = "Zero-shot"
    tuning: Tuning = "none"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        model = Model("base", "base", None, run.inputs.base.record.weights_sha256)
        return alone(model, len(run.rows))
