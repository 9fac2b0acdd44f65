"""GradientSpace: an expert per gradient cluster, one of them answers."""

from __future__ import annotations

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_partition
from evaluation.seed.partition import Fitted, Model, Partition, one_expert_each
from evaluation.seed.seed_run import SeedRun


class GradientSpace(Method):
    """Stage II's clusters, an expert each from the warm-up adapter, the router of section 5.4.2."""

    name = "gradientspace"
    title = "GradientSpace"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        return one_expert_each(*gradient_experts(run, learning_rate))


def gradient_clusters(run: SeedRun) -> Partition:
    """Stage II's partition and its router."""
    return run.routed("gradientspace", run.clusters.labels, run.clusters.k)


def gradient_experts(run: SeedRun, learning_rate: float) -> tuple[Partition, tuple[Model, ...]]:
    """Train, once for all who use them, the experts of Stage II's clusters."""
    partition = gradient_clusters(run)
    return partition, train_partition(run, partition, run.schedule(learning_rate))
