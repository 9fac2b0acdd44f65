"""What a partition is worth: experts trained on its clusters, judged on rows that nothing has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from evaluation.evidence.finished_run import FinishedRun
from evaluation.evidence.rerun import Rerun
from evaluation.seed.experts import train_adapter
from evaluation.seed.partition import ORACLE, ROUTER, Model, Partition, alone, one_expert_each
from evaluation.seed.scoring import score
from training.run.stages import StageStore


@dataclass(frozen=True)
class Losses:
    """Mean completion-token loss of each held-out row [V], by its true cluster's expert and by the router's."""

    by_label: NDArray[np.float64]
    by_route: NDArray[np.float64]


def partition_losses(
    warmed_up: FinishedRun,
    store: StageStore,
    partition: Partition,
    train: NDArray[np.int64],
    held_out: NDArray[np.int64],
    seeds: Sequence[int],
) -> Losses:
    """Train an expert per cluster from the run's warm-up adapter with each seed; return the held-out rows' mean losses.

    `train` and `held_out` [V] are rows of the run. An expert is a stage of its own: what is trained once is not
    trained again.
    """
    by_label, by_route = [], []
    for seed in seeds:
        with Rerun(_with_seed(warmed_up, seed), store, ()) as run:
            schedule = run.schedule(run.inputs.recipe.experts.learning_rate)
            experts = tuple(
                train_adapter(
                    run, f"{partition.name}-{label}-seed-{seed}", partition.members(train, label), schedule
                )
                for label in range(partition.k)
            )
            name = f"{partition.name}-seed-{seed}"
            found = score(run, name, one_expert_each(partition, experts), held_out)
        by_label.append(found[ORACLE].per_token())
        by_route.append(found[ROUTER].per_token())
    return Losses(np.mean(by_label, axis=0), np.mean(by_route, axis=0))


def warmup_losses(
    warmed_up: FinishedRun, store: StageStore, held_out: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the losses [V] with the adapter that all experts start from."""
    with Rerun(warmed_up, store, ()) as run:
        start = Model("warmup", "adapter", run.warmup.folder, run.warmup.digest)
        fitted = alone(start, len(run.rows))
        return score(run, "warmup", fitted, held_out)[fitted.judged_by].per_token()


def _with_seed(run: FinishedRun, seed: int) -> FinishedRun:
    """The same rows, clusters and warm-up adapter; experts see their rows in another order."""
    recipe = run.inputs.recipe.model_copy(update={"seed": seed})
    return replace(run, inputs=replace(run.inputs, recipe=recipe))
