"""Share, then split: part of the row visits on one adapter, the rest on experts that start from it.

The paper shares its warm-up, 5 % of the rows; ELREA's base adapter has seen all of them. Between the two there is a
dial.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.methods.gradientspace import gradient_clusters
from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_adapter, train_partition
from evaluation.seed.partition import Fitted, Partition, one_expert_each
from evaluation.seed.seed_run import SeedRun


@dataclass(frozen=True)
class ShareThenSplit(Method):
    """`percent` of every row's visits shared, the rest in its cluster's expert; 0 is GradientSpace.

    Tuned on its own, as every method: more steps of one adapter in a row want another rate than a short split does.
    """

    percent: int
    tuning: Tuning = "adapters"

    @property
    def name(self) -> str:
        """As `Method.name`."""
        return f"share-{self.percent}"

    @property
    def title(self) -> str:
        """As `Method.title`."""
        return f"Share {self.percent} %, then split"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        clusters = gradient_clusters(run)
        partition = Partition(self.name, clusters.labels, clusters.routes, clusters.k)
        share = self.percent / 100
        shared = train_adapter(run, f"{self.name}-shared", run.train, run.schedule(learning_rate, share))
        split = train_partition(run, partition, run.schedule(learning_rate, 1 - share), start=shared)
        fitted = one_expert_each(partition, split)
        return Fitted(fitted.models, fitted.weights, shared.row_visits + fitted.row_visits)
