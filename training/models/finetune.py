"""Fine-tune one LoRA adapter with Transformers' Trainer, on our own token ids.

Stage I calls it for the warm-up, Stage III for each expert; they differ only in where the adapter starts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from training.errors import TrainingError
from training.models.base_model import BaseModel
from training.progress import Advance
from training.recipe import LoraSection
from training.rows.rendering import TokenRow


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    epochs: float
    learning_rate: float
    batch_rows: int
    at_least_steps: int = 0

    def steps(self, rows: int) -> int:
        """Optimiser steps for this many rows."""
        return max(1, self.at_least_steps, round(self.epochs * -(-rows // self.batch_rows)))


@dataclass(frozen=True)
class Tuned:
    """What came of it."""

    steps: int
    row_visits: int
    first_loss: float
    last_loss: float


def new_adapter(base: BaseModel, lora: LoraSection, seed: int) -> PeftModel:
    """Lay a fresh adapter (B = 0) over a fresh base: all linear layers of the blocks (section 5.2)."""
    set_seed(seed)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        bias="none",
    )
    model = get_peft_model(base.load(), config)
    # Not the folder that it happens to be cached in on this machine: the adapter travels.
    model.peft_config[model.active_adapters[0]].base_model_name_or_path = base.record.id
    return model


def load_adapter(
    base: BaseModel, folder: Path, trainable: bool, dtype: torch.dtype | None = None
) -> PeftModel:
    """Lay a saved adapter over a fresh base."""
    return PeftModel.from_pretrained(base.load(dtype), str(folder), is_trainable=trainable)


def finetune(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    seed: int,
    save_to: Path,
    advance: Advance,
) -> Tuned:
    """Train the adapter on the rows' completions (mean loss per completion token) and save it.

    Raises:
        TrainingError: something other than the adapter would be trained, or the loss is no number.

    """
    _assert_only_lora_trains(model)
    tuned = descend(model, tokenizer, rows, schedule, seed, advance)
    config: Any = model.peft_config[model.active_adapters[0]]
    config.target_modules = sorted(config.target_modules)  # a set: its order would differ from run to run
    # Embeddings are never trained: left to itself, PEFT would ask the hub whether they were.
    model.save_pretrained(str(save_to), safe_serialization=True, save_embedding_layers=False)
    return tuned


def descend(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    seed: int,
    advance: Advance,
) -> Tuned:
    """Train whatever weights of the model ask for a gradient, and save nothing.

    Raises:
        TrainingError: the loss is no number.

    """
    steps = schedule.steps(len(rows))
    on_cuda = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        # Everything that would silently change what is learned is set here, whatever Trainer's default is.
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=schedule.batch_rows,
            gradient_accumulation_steps=1,
            learning_rate=schedule.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=round(0.03 * steps),  # a step of it has rate 0: a short run has none to waste
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch",
            bf16=on_cuda,
            gradient_checkpointing=False,
            label_smoothing_factor=0.0,
            train_sampling_strategy="group_by_length",  # batches of like length: far less padding
            remove_unused_columns=False,
            seed=seed,
            data_seed=seed,
            use_cpu=not on_cuda,
            dataloader_num_workers=0,
            dataloader_pin_memory=on_cuda,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="steps",
            logging_steps=1,
            logging_nan_inf_filter=False,  # on, it would hide a loss that is no number from the watcher
            report_to=[],
            disable_tqdm=True,
        )
        watcher = _Watcher(advance)
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=_Examples(rows),  # type: ignore[arg-type]
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding="longest"),
            callbacks=[watcher],
        )
        trainer.remove_callback(_printer(trainer))
        trainer.train()
    tenth = max(1, len(watcher.losses) // 10)
    return Tuned(
        steps=steps,
        row_visits=sum(watcher.batch_sizes(steps, schedule.batch_rows, len(rows))),
        first_loss=sum(watcher.losses[:tenth]) / tenth,
        last_loss=sum(watcher.losses[-tenth:]) / tenth,
    )


def _assert_only_lora_trains(model: PeftModel) -> None:
    trainable = [name for name, weight in model.named_parameters() if weight.requires_grad]
    others = [name for name in trainable if ".lora_A." not in name and ".lora_B." not in name]
    if others or not trainable:
        what = f"{others[0]} would be trained" if others else "nothing would be trained"
        raise TrainingError(
            f"Fine-tuning must train the adapter alone, but {what}. This is a bug; please report it."
        )


def _printer(trainer: Trainer) -> Any:
    return next(
        callback
        for callback in trainer.callback_handler.callbacks
        if type(callback).__name__ == "PrinterCallback"
    )


class _Examples(torch.utils.data.Dataset):
    def __init__(self, rows: Sequence[TokenRow]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        row = self.rows[place]
        return {
            "input_ids": list(row.input_ids),
            "attention_mask": [1] * len(row.input_ids),
            "labels": row.labels,
        }


class _Watcher(TrainerCallback):
    """Moves the bar, keeps the losses, stops on a loss that is no number."""

    def __init__(self, advance: Advance) -> None:
        self.advance = advance
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(1)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(
                f"The loss became {loss} at step {state.global_step}. Lower the learning rate, or look for rows with "
                "broken text."
            )
        self.losses.append(loss)

    @staticmethod
    def batch_sizes(steps: int, batch_rows: int, rows: int) -> list[int]:
        whole, rest = divmod(rows, batch_rows)
        epoch = [batch_rows] * whole + ([rest] if rest else [])
        return [epoch[step % len(epoch)] for step in range(steps)]
