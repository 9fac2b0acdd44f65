"""Experts by source: the partition that whoever made the rows would have chosen."""

from __future__ import annotations

import numpy as np

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_partition
from evaluation.seed.partition import Fitted, one_expert_each
from evaluation.seed.seed_run import SeedRun
from training.errors import TrainingError


class TrueSkill(Method):
    """An expert per source; the oracle knows a row's source, the router reads it off the prompt."""

    name = "true-skill"
    title = "Experts by true skill"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        sources = [row.source for row in run.rows]
        if not all(sources):
            raise TrainingError(
                "Experts by true skill need rows that all carry a source, and one here does not."
            )
        names, labels = np.unique(np.array(sources, dtype=str), return_inverse=True)
        partition = run.routed(self.name, labels.astype(np.int64), len(names))
        return one_expert_each(partition, train_partition(run, partition, run.schedule(learning_rate)))
