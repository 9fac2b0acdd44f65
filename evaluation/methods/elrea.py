"""ELREA as its authors describe it: a base adapter on everything, experts from it, all of them answer together.

Their code is not public. What stands here follows their paper's summaries and its reviews: gradients of the
instruction's tokens only, at the base adapter; BIRCH; the base adapter in the ensemble; weights a softmax of cosines
that are standardised over the ensemble.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.cluster import Birch

from evaluation.methods.gradientspace import gradient_experts
from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.experts import train_adapter, train_partition
from evaluation.seed.partition import ORACLE, ROUTER, Fitted, Partition
from evaluation.seed.projected_gradients import of_instruction, projected_gradients
from evaluation.seed.seed_run import SeedRun

_BASE_SHARE = (
    0.5  # ours: of the row visits; theirs has twice the visits of one LoRA, which would be no comparison
)
_BIRCH_ROWS = 5000  # theirs


class Elrea(Method):
    """Half of the row visits in the base adapter, half in the experts; as many clusters as ours.

    The base adapter's own direction is the mean over all rows. Fewer clusters come out where BIRCH finds fewer.
    """

    name = "elrea"
    title = "ELREA, as its authors describe it"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        base = train_adapter(run, "elrea-base", run.train, run.schedule(learning_rate, _BASE_SHARE))
        name = f"elrea-at-{learning_rate:g}"
        asked = projected_gradients(
            run, name, base, [of_instruction(row) for row in run.rows]
        )  # [N + T, 8192]
        labels, k = birch_labels(asked, run.train, run.clusters.k, run.seed)
        partition = Partition(self.name, labels, labels, k)
        schedule = run.schedule(learning_rate, 1 - _BASE_SHARE)
        experts = train_partition(run, partition, schedule, start=base)
        everyone = mean_directions(asked[run.train], np.zeros(len(run.train), dtype=np.int64), 1)
        means = np.concatenate(
            [everyone, mean_directions(asked[run.train], labels[run.train], k)]
        )  # [1 + K, 8192]
        visits = base.row_visits + sum(expert.row_visits for expert in experts)
        return Fitted((base, *experts), {ROUTER: standardised_softmax(asked @ means.T)}, visits)


def birch_labels(
    rows: NDArray[np.float32], train: NDArray[np.int64], k: int, seed: int
) -> tuple[NDArray[np.int64], int]:
    """Cluster up to 5,000 training rows by BIRCH and give every row [n, d] its nearest cluster: labels [n], and K."""
    chosen = np.random.default_rng(seed).permutation(train)[:_BIRCH_ROWS]
    found = Birch(n_clusters=k).fit(rows[chosen])
    labels = np.asarray(found.predict(rows), dtype=np.int64)
    # Numbered by first appearance among the training rows: a cluster without one would have no expert.
    kept = np.unique(labels[train])
    means = mean_directions(rows[train], np.searchsorted(kept, labels[train]), len(kept))
    strays = ~np.isin(labels, kept)
    labels = np.searchsorted(kept, np.where(strays, kept[0], labels)).astype(np.int64)
    labels[strays] = (rows[strays] @ means.T).argmax(1)
    return labels, len(kept)


def standardised_softmax(cosines: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return weights [n, M] of cosines [n, M], each row brought to mean 0 and deviation 1 before the softmax."""
    each = np.asarray(cosines, dtype=np.float64)
    spread = each.std(axis=1, keepdims=True)
    return np.asarray(softmax((each - each.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-12), axis=1))


class ElreaPaper(Method):
    """Our experts, mixed: "a weighted average derived from softmax-normalized gradient alignment scores" (6.2).

    An expert's gradient is the mean of its rows' projected ones. The row that asks is known by its instruction's
    gradient (`router`), or, as nobody could in use, by the gradient of its response (`oracle`).
    """

    name = "elrea-paper"
    title = "ELREA, as the paper words it"
    tuning: Tuning = "adapters"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        partition, experts = gradient_experts(run, learning_rate)
        seen = projected_gradients(run, "responses", run.warmup, run.rows)  # [N + T, 8192]
        asked = projected_gradients(
            run, "instructions", run.warmup, [of_instruction(row) for row in run.rows]
        )
        means = mean_directions(seen[run.train], partition.labels[run.train], partition.k)  # [K, 8192]
        weights = {ORACLE: softmax(seen @ means.T, axis=1), ROUTER: softmax(asked @ means.T, axis=1)}
        return Fitted(
            experts,
            {route: each.astype(np.float64) for route, each in weights.items()},
            sum(expert.row_visits for expert in experts),
        )


def mean_directions(rows: NDArray[np.float32], labels: NDArray[np.int64], k: int) -> NDArray[np.float32]:
    """Return the unit means [K, d] of unit rows [n, d], by label [n]."""
    means = np.stack([rows[labels == label].mean(0) for label in range(k)])
    return means / np.linalg.norm(means, axis=1, keepdims=True)
