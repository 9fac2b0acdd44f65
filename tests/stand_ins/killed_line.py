"""The whole line, killed in the middle of an adapter's fine-tuning."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from training import pipeline
from training.progress import Advance, Narrator
from training.recipe import read_recipe
from training.stages import finetune_stage


def train_until_killed(given: dict[str, Any], stage: str) -> None:
    """Train, and be killed after the first step of that stage's adapter; for a process of its own."""
    finetune = finetune_stage.finetune_lora

    def killed(
        model: Any,
        tokenizer: Any,
        rows: Any,
        schedule: Any,
        seed: int,
        save_to: Path,
        advance: Advance,
        **others: Any,
    ) -> Any:
        def stop(done: int) -> None:
            advance(done)
            if stage in str(save_to):
                os.kill(os.getpid(), signal.SIGKILL)

        return finetune(model, tokenizer, rows, schedule, seed, save_to, stop, **others)

    finetune_stage.finetune_lora = killed  # type: ignore[assignment]
    pipeline.train(read_recipe(None, given, []), Narrator())
