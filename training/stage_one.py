"""Stage I: the warm-up adapter (section 5.2)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.gradients.plain_lora import check_adapter
from training.models.finetune import Schedule, new_adapter
from training.models.tuning import tune
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore


def warm_up(inputs: Inputs, store: StageStore) -> TrainedAdapter:
    """Train the warm-up adapter; the stage's folder is the adapter."""
    recipe = inputs.recipe
    schedule = Schedule(
        recipe.warmup.epochs,
        recipe.warmup.learning_rate,
        recipe.warmup.batch_rows,
        recipe.warmup.at_least_steps,
    )
    rows, validation = inputs.pick(inputs.split.warmup), inputs.pick(inputs.split.validation)

    def work(folder: Path) -> dict[str, Any]:
        model = new_adapter(inputs.base, recipe.lora, recipe.seed)
        check_adapter(model)  # a base that Stage II would refuse is refused before anything is trained
        return asdict(tune(inputs, store, model, rows, schedule, folder, "warmup", validation))

    depends_on = {
        "inputs": inputs.digest,
        "base": inputs.base.record.model_dump(),
        "lora": recipe.lora.model_dump(),
        "warmup": recipe.warmup.model_dump(),
        "split": recipe.split.model_dump(),
        "seed": recipe.seed,
    }
    stage = Stage("warmup", "Stage I: warm-up adapter", depends_on)
    return TrainedAdapter.read(store.deal_out([(stage, work)])[0])
