"""Stage III: the experts and the router (section 5.4)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.assignment import Assignment
from training.finetune import Schedule, load_adapter
from training.inputs import Inputs
from training.router_export import write_router
from training.router_head import calibrated, fit_head
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


def train_router(
    inputs: Inputs, store: StageStore, assigned: StageResult, assignment: Assignment
) -> StageResult:
    """Fit, calibrate and export the router; held-out rows say how far it agrees with the clusters."""
    section, encoder = inputs.recipe.router, inputs.encoder
    train_rows, held_out = list(inputs.split.train), list(inputs.split.validation)
    texts = [row.routed_text for row in inputs.rows]

    def work(folder: Path) -> dict[str, Any]:
        with store.narrator.bar("encoding prompts", len(texts), "rows") as advance:
            embeddings = encoder.embed(texts, section.max_tokens, advance)  # [N, H]
        labels = assignment.labels
        head = fit_head(embeddings[train_rows], labels[train_rows], assignment.k, inputs.recipe.seed)
        calibration = calibrated(head, embeddings[held_out], labels[held_out])
        names = tuple(expert_name(label) for label in range(assignment.k))
        samples = [texts[row] for row in held_out[:16]]
        write_router(folder / "router", encoder, head, names, samples, section.max_tokens)
        store.narrator.say(
            f"    agrees with the clusters on {calibration.agreement:.1%} of {len(held_out)} held-out rows"
        )
        return {"calibration": calibration.model_dump(), "hidden": encoder.hidden}

    depends_on = {
        "inputs": inputs.digest,
        "labels": assigned.facts["labels_sha256"],
        "router": section.model_dump(),
        "encoder": encoder.sha256,
        "seed": inputs.recipe.seed,
    }
    stage = Stage("router", f"Stage III: router on {encoder.name}", depends_on)
    return store.deal_out([(stage, work)])[0]
