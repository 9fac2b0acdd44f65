"""Random clusters: the sizes of ours, the rows in them drawn."""

from __future__ import annotations

import numpy as np

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_partition
from evaluation.seed.partition import Fitted, one_expert_each
from evaluation.seed.seed_run import SeedRun


class RandomClusters(Method):
    """A permutation of Stage II's labels, so that only what is in a cluster differs from ours, not its size.

    No router can learn such labels, and no oracle knows better: the two routes differ by chance alone.
    """

    name = "random"
    title = "Random clusters"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        labels = run.clusters.labels.copy()
        draw = np.random.default_rng(run.seed)
        for rows in (run.train, run.validation, run.test):
            labels[rows] = draw.permutation(labels[rows])
        partition = run.routed(self.name, labels, run.clusters.k)
        return one_expert_each(partition, train_partition(run, partition, run.schedule(learning_rate)))
