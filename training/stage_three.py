"""Stage III: the experts and the router (section 5.4)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from training.clusters.results import Assigned
from training.models.finetune import Schedule, load_adapter
from training.recipe import ExpertsSection
from training.router.held_out import LabelledHeldOut
from training.router.making import RouterStage, make_router
from training.router.rows import RoutedRows
from training.stages.finetune_stage import AdapterJob, finetune_stage
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore, Work


def expert_name(label: int) -> str:
    """Return what the expert of a cluster is called, everywhere."""
    return f"expert-{label}"


def train_shared(inputs: Inputs, store: StageStore, warmup: TrainedAdapter) -> TrainedAdapter:
    """Train the adapter that every expert starts from: the shared part of the epochs, on all rows.

    The paper shares the warm-up alone; with that the warm-up adapter itself comes back. More is ours
    (docs/measurements/table-one.md).
    """
    if not inputs.recipe.experts.shared:
        return warmup
    title = "Stage III: the adapter that the experts start from"
    return _on_all_rows(inputs, store, warmup, _OnAllRows("shared", title, inputs.recipe.experts.shared))


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
    recipe, labels = inputs.recipe, assigned.assignment.labels
    schedule = _schedule(recipe.experts, 1 - recipe.experts.shared)
    rows, validation = (
        inputs.pick([row for row in part if labels[row] == label])
        for part in (inputs.split.train, inputs.split.validation)
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


def train_fallback(inputs: Inputs, store: StageStore, warmup: TrainedAdapter) -> TrainedAdapter | None:
    """Train an adapter on all training rows as an expert is on its own, if the recipe wants it for the fallback."""
    recipe = inputs.recipe
    if recipe.fallback.train == "warmup":
        return None
    title = "Stage III: the fallback"
    return _on_all_rows(inputs, store, warmup, _OnAllRows("fallback", title, 1.0))


@dataclass(frozen=True)
class _OnAllRows:
    """An adapter that is trained on all training rows, for a part of the experts' epochs."""

    name: str
    title: str
    part: float


def _on_all_rows(
    inputs: Inputs, store: StageStore, warmup: TrainedAdapter, wanted: _OnAllRows
) -> TrainedAdapter:
    schedule = _schedule(inputs.recipe.experts, wanted.part)
    rows, validation = inputs.pick(inputs.split.train), inputs.pick(inputs.split.validation)
    # On its own schedule: another share is no reason to train the fallback again.
    depends_on = {"warmup": warmup.digest, "schedule": asdict(schedule)}
    stage = Stage(wanted.name, f"{wanted.title}, on all {len(rows):,} rows", depends_on)
    job = AdapterJob(stage, rows, schedule, validation, curves=True)
    dealt = finetune_stage(inputs, store, job, lambda: _going_on_from(inputs, warmup))
    return TrainedAdapter.read(store.deal_out([dealt])[0])


def _going_on_from(inputs: Inputs, start: TrainedAdapter) -> PeftModel:
    return load_adapter(inputs.base, start.folder, trainable=True)


def _schedule(section: ExpertsSection, part: float) -> Schedule:
    return Schedule(part * section.epochs, section.learning_rate, section.batch_rows)


def train_router(
    inputs: Inputs,
    store: StageStore,
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

    def work(folder: Path) -> dict[str, Any]:
        made = make_router(
            folder / "router",
            inputs.encoder,
            texts,
            judged,
            names,
            recipe.router,
            recipe.seed,
            store.narrator,
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
