"""ELREA in the paper's wording: all experts answer, each as loudly as its gradients resemble the row's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from evaluation.methods.gradientspace import gradient_experts
from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.partition import ORACLE, ROUTER, Fitted
from evaluation.seed.projected_gradients import of_instruction, projected_gradients
from evaluation.seed.seed_run import SeedRun


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
