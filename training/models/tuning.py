"""Fine-tuning as a stage sees it: with a bar, and its outcome said. Stages I and III share it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel

from training.models.finetune import Schedule, Tuned, finetune
from training.rows.rendering import TokenRow
from training.stages.inputs import Inputs
from training.stages.store import StageStore


def tune(
    inputs: Inputs,
    store: StageStore,
    model: PeftModel,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    folder: Path,
) -> Tuned:
    """Fine-tune `model` on `rows` and save its adapter into `folder`."""
    with store.narrator.bar("fine-tuning", schedule.steps(len(rows)), "steps") as advance:
        tuned = finetune(model, inputs.tokenizer, rows, schedule, inputs.recipe.seed, folder, advance)
    store.narrator.say(f"    loss {tuned.first_loss:.3f} -> {tuned.last_loss:.3f} in {tuned.steps} steps")
    return tuned
