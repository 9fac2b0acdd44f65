"""An adapter that knows nothing: what experts would start from without the warm-up (section 5.4.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.seed.partition import Model
from evaluation.seed.seed_run import SeedRun
from training.models.finetune import new_adapter
from training.run.stages import Stage


def fresh_adapter(run: SeedRun) -> Model:
    """A new adapter (B = 0) of the recipe's shape; its warm-up's row visits are not made up for."""
    recipe = run.inputs.recipe

    def work(folder: Path) -> dict[str, Any]:
        model = new_adapter(run.inputs.base, recipe.lora, run.seed)
        config: Any = model.peft_config[model.active_adapters[0]]
        config.target_modules = sorted(config.target_modules)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return {}

    depends_on = {
        "base": run.inputs.base.record.model_dump(),
        "lora": recipe.lora.model_dump(),
        "seed": run.seed,
    }
    done = run.store.run(Stage("fresh-adapter", "An adapter that was not warmed up", depends_on), work)
    return Model("fresh", "adapter", done.folder, done.digest)
