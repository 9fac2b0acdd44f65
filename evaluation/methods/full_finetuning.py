"""Full fine-tuning: every weight of the base is trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.methods.protocol import Method, Tuning
from evaluation.seed.partition import Fitted, Model, alone
from evaluation.seed.seed_run import SeedRun
from training.models.finetune import load_adapter, train_weights
from training.stages.store import Stage


class FullFinetuning(Method):
    """From the base with the warm-up adapter merged into it: the start of all the others, and as many row visits."""

    name = "full"
    title = "Full fine-tuning"
    tuning: Tuning = "all weights"

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """As `Method.fit`."""
        schedule = run.schedule(learning_rate)
        steps = schedule.steps(len(run.train))

        def work(folder: Path) -> dict[str, Any]:
            adapted: Any = load_adapter(run.inputs.base, run.warmup.folder, trainable=False)
            model = adapted.merge_and_unload().requires_grad_(True)
            with run.store.narrator.bar("fine-tuning", steps, "steps") as advance:
                tuned = train_weights(
                    model, run.inputs.tokenizer, run.pick(run.train), schedule, run.seed, advance
                )
            model.save_pretrained(str(folder), safe_serialization=True)
            run.inputs.tokenizer.save_pretrained(str(folder))  # so that an engine can serve it as it is
            return asdict(tuned)

        depends_on = {
            "start": run.warmup.digest,
            "rows": run.train.tolist(),
            "schedule": asdict(schedule),
            "seed": run.seed,
        }
        title = f"{self.name}: {len(run.train):,} rows, {steps} steps at {learning_rate:g}"
        done = run.store.run(Stage(f"{self.name}-at-{learning_rate:g}", title, depends_on), work)
        visits = int(done.facts["row_visits"])
        return alone(Model(self.name, "whole", done.folder, done.digest, visits), len(run.rows))
