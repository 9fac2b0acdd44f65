"""Stage III: the experts and the router (section 5.4)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.assignment import Assignment
from training.finetune import Schedule, load_adapter
from training.held_out import HeldOut
from training.inputs import Inputs
from training.routed_rows import JudgedRows, RoutedRows
from training.router_making import make_router
from training.stage_store import Stage, StageResult, StageStore, Work
from training.tuning import tune


def expert_name(label: int) -> str:
    """Return what the expert of a cluster is called, everywhere."""
    return f"expert-{label}"


def train_experts(
    inputs: Inputs, store: StageStore, warmup: StageResult, assigned: StageResult, assignment: Assignment
) -> list[StageResult]:
    """Train every cluster's expert; several processes train several at once."""
    jobs = [_expert(inputs, store, warmup, assigned, assignment, label) for label in range(assignment.k)]
    return store.deal_out(jobs)


def _expert(
    inputs: Inputs,
    store: StageStore,
    warmup: StageResult,
    assigned: StageResult,
    assignment: Assignment,
    label: int,
) -> tuple[Stage, Work]:
    """The expert of one cluster, from the warm-up adapter; the stage's folder is the adapter."""
    recipe = inputs.recipe
    schedule = Schedule(recipe.experts.epochs, recipe.experts.learning_rate, recipe.experts.batch_rows)
    rows = inputs.pick([row for row in inputs.split.train if assignment.labels[row] == label])

    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(inputs.base, warmup.folder, trainable=True)
        return asdict(tune(inputs, store, model, rows, schedule, folder))

    depends_on = {
        "warmup": warmup.digest,
        "labels": assigned.facts["labels_sha256"],
        "label": label,
        "experts": recipe.experts.model_dump(),
    }
    title = f"Stage III: expert {label + 1} of {assignment.k} ({len(rows):,} rows)"
    return Stage(expert_name(label), title, depends_on), work


def train_fallback(inputs: Inputs, store: StageStore, warmup: StageResult) -> StageResult | None:
    """Train an adapter on all training rows as an expert is on its own, if the recipe wants it for the fallback."""
    recipe = inputs.recipe
    if recipe.fallback.train == "warmup":
        return None
    schedule = Schedule(recipe.experts.epochs, recipe.experts.learning_rate, recipe.experts.batch_rows)
    rows = inputs.pick(inputs.split.train)

    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(inputs.base, warmup.folder, trainable=True)
        return asdict(tune(inputs, store, model, rows, schedule, folder))

    depends_on = {"warmup": warmup.digest, "experts": recipe.experts.model_dump()}
    title = f"Stage III: the fallback, on all {len(rows):,} rows"
    return store.deal_out([(Stage("fallback", title, depends_on), work)])[0]


def train_router(
    inputs: Inputs,
    store: StageStore,
    assigned: StageResult,
    assignment: Assignment,
    held_out: HeldOut,
) -> StageResult:
    """Fit, calibrate and export the router; held-out rows say how far it agrees with the clusters."""
    recipe = inputs.recipe
    train_rows = list(inputs.split.train)
    texts = RoutedRows([inputs.rows[row].routed_text for row in train_rows], assignment.labels[train_rows])
    judged = JudgedRows(held_out.texts, held_out.labels, held_out.fitted)
    names = tuple(expert_name(label) for label in range(assignment.k))

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
        return {
            "router": made.record.model_dump(),
            "calibration": made.calibration.model_dump(),
            "found": made.found,
        }

    depends_on = {
        "inputs": inputs.digest,
        "labels": assigned.facts["labels_sha256"],
        "held_out": held_out.digest,
        "held_out_rows": inputs.held_out_digest,
        "router": recipe.router.model_dump(),
        "encoder": inputs.encoder.sha256,
        "seed": recipe.seed,
    }
    stage = Stage("router", f"Stage III: {recipe.router.kind} router on {inputs.encoder.name}", depends_on)
    return store.deal_out([(stage, work)])[0]
