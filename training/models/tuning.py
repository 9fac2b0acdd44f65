"""Fine-tuning as a stage sees it: with a bar, its curves told, its outcome said. Stages I and III share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel

from training.models.finetune import Schedule, Tuned, finetune
from training.models.reporters import Reporting, reporters
from training.rows.rendering import TokenRow
from training.stages.inputs import Inputs
from training.stages.store import StageStore

LOGS = "logs"
"""Folder of the run in which each adapter has one of its own for its curves."""


def tune(
    inputs: Inputs,
    store: StageStore,
    model: PeftModel,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    folder: Path,
    name: str,
    validation: Sequence[TokenRow],
) -> Tuned:
    """Fine-tune `model` on `rows` and save its adapter into `folder`; `validation` rows say how it does on others."""
    run = store.folder.parent
    told, _ = reporters(inputs.recipe.train.report_to)
    with store.narrator.bar("fine-tuning", schedule.steps(len(rows)), "steps") as advance:
        tuned = finetune(
            model,
            inputs.tokenizer,
            rows,
            schedule,
            inputs.recipe.seed,
            folder,
            advance,
            validation=validation,
            report_to=Reporting(told, run / LOGS / name, f"{run.name}/{name}"),
        )
    said = f"    loss {tuned.first_loss:.3f} -> {tuned.last_loss:.3f} in {tuned.steps} steps"
    if tuned.validation_losses:
        first, last = tuned.validation_losses[0][1], tuned.validation_losses[-1][1]
        said += f"; on {tuned.validation_rows:,} validation rows {first:.3f} -> {last:.3f}"
    store.narrator.say(said)
    return tuned
