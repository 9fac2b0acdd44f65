"""Share, then split: part of the row visits on one adapter, the rest on experts that start from it.

The paper shares its warm-up, 5 % of the rows; ELREA's base adapter has seen all of them. Between the two there is a
dial, and what the rows are split by is another choice.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.methods.gradientspace import gradient_clusters
from evaluation.methods.kmeans import text_clusters
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

    def partition(self, run: SeedRun) -> Partition:
        """What the rows are split by: the paper's clusters."""
        return gradient_clusters(run)

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        found = self.partition(run)
        partition = Partition(self.name, found.labels, found.routes, found.k)
        share = self.percent / 100
        # Whatever comes after, the shared part is the same: it is trained once.
        shared = train_adapter(
            run, f"share-{self.percent}-shared", run.train, run.schedule(learning_rate, share)
        )
        split = train_partition(run, partition, run.schedule(learning_rate, 1 - share), start=shared)
        fitted = one_expert_each(partition, split)
        return Fitted(fitted.models, fitted.weights, shared.row_visits + fitted.row_visits)


class ShareThenKMeans(ShareThenSplit):
    """The same, split by K-means on the prompts' embeddings, into as many clusters as the readable ones."""

    @property
    def name(self) -> str:
        """As `Method.name`."""
        return f"kmeans-share-{self.percent}"

    @property
    def title(self) -> str:
        """As `Method.title`."""
        return f"Share {self.percent} %, then K-means on embeddings"

    def partition(self, run: SeedRun) -> Partition:
        """As `ShareThenSplit.partition`."""
        return text_clusters(run, self.name, run.readable_clusters.k)
