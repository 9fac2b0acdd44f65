"""One LoRA adapter on everything: what every split has to beat."""

from __future__ import annotations

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_adapter
from evaluation.seed.partition import Fitted, alone
from evaluation.seed.seed_run import SeedRun


class OneLora(Method):
    """From the warm-up adapter, as every expert: without that start the comparison would be unfair."""

    name = "one-lora"
    title = "One LoRA"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        return alone(train_adapter(run, self.name, run.train, run.schedule(learning_rate)), len(run.rows))
