"""K-means on embeddings: clusters of like prompts."""

from __future__ import annotations

from sklearn.cluster import KMeans

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_partition
from evaluation.seed.partition import Fitted, Partition, one_expert_each
from evaluation.seed.seed_run import SeedRun


class KMeansOnEmbeddings(Method):
    """As many clusters as ours, of the router's encoding of the prompts; the oracle is the nearest centroid."""

    name = "kmeans"
    title = "K-means on embeddings"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        partition = text_clusters(run, self.name, run.clusters.k)
        return one_expert_each(partition, train_partition(run, partition, run.schedule(learning_rate)))


def text_clusters(run: SeedRun, name: str, k: int) -> Partition:
    """Cluster the training rows' prompts and give every row the nearest centroid."""
    found = KMeans(k, n_init=run.inputs.recipe.clusters.n_init, random_state=run.seed)
    found.fit(run.embeddings[run.train])
    return run.routed(name, found.predict(run.embeddings).astype("int64"), k)
