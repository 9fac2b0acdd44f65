"""Train one adapter on some rows, or one per cluster of a partition: each a stage, so none is trained twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray
from peft import PeftModel

from evaluation.seed.partition import Model, Partition
from evaluation.seed.seed_run import SeedRun
from training.errors import TrainingError
from training.models.finetune import Schedule, load_adapter
from training.stages.finetune_stage import AdapterJob, finetune_stage
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage


def train_adapter(
    run: SeedRun,
    name: str,
    rows: Sequence[int] | NDArray[np.int64],
    schedule: Schedule,
    start: TrainedAdapter | Model | None = None,
    validation: Sequence[int] | NDArray[np.int64] = (),
) -> Model:
    """Train an adapter on these rows, from `start` (the warm-up adapter unless told otherwise).

    `validation` are the rows that stop it, where the schedule asks for that.

    Raises:
        TrainingError: there is no row, or the loss is no number.

    """
    begin = run.warmup if start is None else start
    places = [int(place) for place in rows]
    if not places:
        raise TrainingError(f"{name}: no row belongs to it, so it can't be trained. Use fewer clusters.")

    title = f"{name}: {len(places):,} rows, {schedule.steps(len(places))} steps at {schedule.learning_rate:g}"
    depends_on = {
        "start": begin.digest,
        "rows": places,
        "schedule": asdict(schedule),
        "validation": [int(place) for place in validation],
        "seed": run.seed,
    }
    stage = Stage(f"{name}-at-{schedule.learning_rate:g}", title, depends_on)
    job = AdapterJob(stage, run.pick(places), schedule, run.pick(validation))

    def load() -> PeftModel:
        assert begin.folder is not None
        return load_adapter(run.inputs.base, begin.folder, trainable=True)

    trained = TrainedAdapter.read(run.store.run(*finetune_stage(run.inputs, run.store, job, load)))
    return Model(name, "adapter", trained.folder, trained.digest, trained.tuned.row_visits)


def train_partition(
    run: SeedRun,
    partition: Partition,
    schedule: Schedule,
    start: TrainedAdapter | Model | None = None,
    validation: NDArray[np.int64] | None = None,
) -> tuple[Model, ...]:
    """Train an expert per cluster of a partition, on its own training rows (section 5.4.1).

    Each is stopped by those of the `validation` rows that are in its cluster, if there are any.
    """
    stopping = np.array([], dtype=np.int64) if validation is None else validation
    return tuple(
        train_adapter(
            run,
            f"{partition.name}-{label}",
            partition.members(run.train, label),
            schedule,
            start,
            partition.members(stopping, label),
        )
        for label in range(partition.k)
    )
