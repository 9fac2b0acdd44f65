"""Fine-tuning as a stage: where an adapter starts, what it learns from, and its loss told while it trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel

from training.models.finetune import Fit, Schedule, Tuned, finetune_lora
from training.models.reporters import Reporting, reporters
from training.rows.rendering import TokenRow
from training.stages.inputs import Inputs
from training.stages.store import Stage, StageStore, Work

LOGS = "logs"
"""Folder of the run in which each adapter has one of its own for its curves."""


@dataclass(frozen=True)
class AdapterJob:
    """An adapter to be trained: its stage, its rows, and for how long.

    validation: rows that say how it does on others. curves: tell `train.report_to` of its losses.
    """

    stage: Stage
    rows: Sequence[TokenRow]
    schedule: Schedule
    validation: Sequence[TokenRow] = ()
    curves: bool = False


def finetune_stage(
    inputs: Inputs, store: StageStore, job: AdapterJob, begin: Callable[[], PeftModel]
) -> tuple[Stage, Work]:
    """Return the stage and its work, for `StageStore`: fine-tune what `begin` gives; the stage's folder is the adapter.

    `training.stages.outcome.TrainedAdapter` reads back what it leaves.
    """

    def work(folder: Path) -> dict[str, Any]:
        run, name = store.folder.parent, job.stage.name
        told, _ = reporters(inputs.recipe.train.report_to)
        model = begin()
        with store.narrator.bar("fine-tuning", job.schedule.steps(len(job.rows)), "steps") as advance:
            tuned = finetune_lora(
                model,
                inputs.tokenizer,
                job.rows,
                job.schedule,
                inputs.recipe.seed,
                folder,
                advance,
                validation=job.validation,
                fit=_fit(store, job.schedule.batch_rows),
                report_to=Reporting(told, run / LOGS / name, f"{run.name}/{name}") if job.curves else None,
            )
        store.narrator.say(_said(tuned))
        return asdict(tuned)

    return job.stage, work


def _fit(store: StageStore, batch_rows: int) -> Fit | None:
    """How the run's plan (the stage `plan`) fits an optimiser step into memory; whole, where nothing was planned."""
    planned = store.results.get("plan")
    step = planned.facts["finetuning"].get(str(batch_rows)) if planned else None
    return Fit(step["micro_batch_rows"], step["gradient_checkpointing"]) if step else None


def _said(tuned: Tuned) -> str:
    said = f"    loss {tuned.first_loss:.3f} -> {tuned.last_loss:.3f} in {tuned.steps} steps"
    if tuned.validation_losses:
        first, last = tuned.validation_losses[0][1], tuned.validation_losses[-1][1]
        said += f"; on {tuned.validation_rows:,} validation rows {first:.3f} -> {last:.3f}"
    if tuned.kept_step is not None and tuned.kept_step != tuned.steps:
        said += f", kept as after step {tuned.kept_step}" if tuned.kept_step else ", kept as it began"
    return said
