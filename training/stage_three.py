"""Stage III: the experts and the router (section 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from training.clusters.results import Assigned, EncodedPrompts
from training.models.expert_schedules import schedule_after_it, shared_schedule
from training.models.finetune import Schedule, load_adapter
from training.router.held_out import TEACH, LabelledHeldOut
from training.router.making import Encoded, RouterStage, make_router
from training.router.rows import RoutedRows
from training.stages.finetune_stage import AdapterJob, finetune_stage
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore, Work


def expert_name(label: int) -> str:
    """Return what the expert of a cluster is called, everywhere."""
    return f"expert-{label}"


def train_shared(inputs: Inputs, store: StageStore, warmup: TrainedAdapter) -> TrainedAdapter:
    """Train the adapter that every expert starts from, on all rows: as long as its validation loss falls.

    The paper shares the warm-up alone; with that (`experts.shared` = 0) the warm-up adapter itself comes back. More is
    ours (docs/measurements/table-one.md).
    """
    section = inputs.recipe.experts
    schedule = shared_schedule(section, section.learning_rate)
    if not schedule.epochs:
        return warmup
    title = "Stage III: the adapter that the experts start from"
    return _on_all_rows(inputs, store, warmup, schedule, Stage("shared", title, {}))


def train_experts(
    inputs: Inputs, store: StageStore, start: TrainedAdapter, assigned: Assigned
) -> list[TrainedAdapter]:
    """Train every cluster's expert from `start`; several processes train several at once."""
    jobs = [_expert(inputs, store, start, assigned, label) for label in range(assigned.k)]
    return [TrainedAdapter.read(stage) for stage in store.deal_out(jobs)]


def _expert(
    inputs: Inputs, store: StageStore, start: TrainedAdapter, assigned: Assigned, label: int
) -> tuple[Stage, Work]:
    """The expert of one cluster; the stage's folder is the adapter."""
    labels, schedule = assigned.assignment.labels, _after_the_split(inputs, start)
    rows, validation = (
        inputs.pick([row for row in part if labels[row] == label])
        for part in (inputs.split.train, _validation(inputs, schedule))
    )
    depends_on = {
        "start": start.digest,
        "labels": assigned.labels_sha256,
        "label": label,
        "schedule": asdict(schedule),
    }
    title = f"Stage III: expert {label + 1} of {assigned.k} ({len(rows):,} rows)"
    stage = Stage(expert_name(label), title, depends_on)
    job = AdapterJob(stage, rows, schedule, validation, curves=True)
    return finetune_stage(inputs, store, job, lambda: _going_on_from(inputs, start))


def train_fallback(inputs: Inputs, store: StageStore, start: TrainedAdapter) -> TrainedAdapter | None:
    """Train one LoRA on everything, for the fallback and for comparison, unless the recipe wants the warm-up adapter.

    It goes on from the experts' own `start`, on all rows, as long as they do on theirs: an epoch of it takes as many
    row visits as one of all experts together, so what was trained before the split is trained once.
    """
    if inputs.recipe.fallback.train == "warmup":
        return None
    stage = Stage("fallback", "Stage III: the fallback, one LoRA on everything", {})
    return _on_all_rows(inputs, store, start, _after_the_split(inputs, start), stage)


def _on_all_rows(
    inputs: Inputs, store: StageStore, start: TrainedAdapter, schedule: Schedule, named: Stage
) -> TrainedAdapter:
    """Train `start` on all training rows; `named` lacks what the stage depends on."""
    rows, validation = inputs.pick(inputs.split.train), inputs.pick(_validation(inputs, schedule))
    depends_on = {"start": start.digest, "schedule": asdict(schedule)}
    stage = Stage(named.name, f"{named.title}, on all {len(rows):,} rows", depends_on)
    job = AdapterJob(stage, rows, schedule, validation, curves=True)
    dealt = finetune_stage(inputs, store, job, lambda: _going_on_from(inputs, start))
    return TrainedAdapter.read(store.deal_out([dealt])[0])


def _going_on_from(inputs: Inputs, start: TrainedAdapter) -> PeftModel:
    return load_adapter(inputs.base, start.folder, trainable=True)


def _after_the_split(inputs: Inputs, start: TrainedAdapter) -> Schedule:
    """What the experts and one LoRA on everything have alike: the epochs that the shared adapter left."""
    section, rows = inputs.recipe.experts, len(inputs.split.train)
    return schedule_after_it(section, section.learning_rate, rows, start.tuned.row_visits)


def _validation(inputs: Inputs, schedule: Schedule) -> Sequence[int]:
    """The rows that an adapter is measured on while it trains: where they stop it, none that judges it later."""
    return inputs.split.validation if schedule.keep == "last" else inputs.split.stopping


def train_router(
    inputs: Inputs,
    store: StageStore,
    prompts: EncodedPrompts,
    assigned: Assigned,
    held_out: LabelledHeldOut,
) -> RouterStage:
    """Fit, calibrate and export the router; held-out rows teach it too, and say how far it agrees with the clusters."""
    recipe = inputs.recipe
    train_rows, teaching, judged = list(inputs.split.train), held_out.teaching, held_out.judged
    texts = RoutedRows(
        [*(inputs.rows[row].routed_text for row in train_rows), *teaching.texts],
        np.concatenate([assigned.assignment.labels[train_rows], teaching.labels]),
    )
    names = tuple(expert_name(label) for label in range(assigned.k))
    teaches = held_out.use == TEACH

    def work(folder: Path) -> dict[str, Any]:
        known = prompts.embeddings[[*train_rows, *held_out.encoded[teaches]]]
        made = make_router(
            folder / "router",
            inputs.encoder,
            texts,
            judged,
            names,
            recipe.router,
            recipe.seed,
            store.narrator,
            Encoded(known, prompts.embeddings[held_out.encoded[~teaches]]),
        )
        return made.facts()

    depends_on = {
        "inputs": inputs.digest,
        "partition": assigned.digest,
        "labels": assigned.labels_sha256,
        "held_out": held_out.digest,
        "held_out_rows": inputs.held_out_digest,
        "router": recipe.router.model_dump(),
        "encoder": inputs.encoder.sha256,
        "seed": recipe.seed,
    }
    stage = Stage("router", f"Stage III: {recipe.router.kind} router on {inputs.encoder.name}", depends_on)
    return RouterStage.read(store.deal_out([(stage, work)])[0])
