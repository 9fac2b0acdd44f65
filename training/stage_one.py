"""Stage I: the warm-up adapter (section 5.2)."""

from __future__ import annotations

from peft import PeftModel

from training.gradients.plain_lora import check_adapter
from training.models.finetune import Schedule, new_adapter
from training.stages.finetune_stage import AdapterJob, finetune_stage
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore


def warm_up(inputs: Inputs, store: StageStore) -> TrainedAdapter:
    """Train the warm-up adapter; the stage's folder is the adapter."""
    recipe = inputs.recipe
    depends_on = {
        "inputs": inputs.digest,
        "base": inputs.base.record.model_dump(),
        "lora": recipe.lora.model_dump(),
        "warmup": recipe.warmup.model_dump(),
        "split": recipe.split.model_dump(),
        "seed": recipe.seed,
    }
    job = AdapterJob(
        Stage("warmup", "Stage I: warm-up adapter", depends_on),
        inputs.pick(inputs.split.warmup),
        Schedule(
            recipe.warmup.epochs,
            recipe.warmup.learning_rate,
            recipe.warmup.batch_rows,
            recipe.warmup.at_least_steps,
        ),
        validation=inputs.pick(inputs.split.validation),
        curves=True,
    )

    def begin() -> PeftModel:
        model = new_adapter(inputs.base, recipe.lora, recipe.seed)
        check_adapter(model)  # a base that Stage II would refuse is refused before anything is trained
        return model

    return TrainedAdapter.read(store.deal_out([finetune_stage(inputs, store, job, begin)])[0])
