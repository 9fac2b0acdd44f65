"""Fine-tune one LoRA adapter with Transformers' Trainer, on our own token ids.

Stage I calls it for the warm-up, Stage III for each expert; they differ only in where the adapter starts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from training.errors import TrainingError
from training.models.base_model import BaseModel
from training.models.lora_targets import lay_adapter
from training.models.loss_curves import Curve, LossWatch, averaged, example, plan_stopping, plan_validation
from training.models.reporters import Reporting, reporting
from training.models.row_loss import TokenBatch, token_losses
from training.models.stopping import BestKept
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
    rate: Literal["cosine", "constant"] = "cosine"
    """A cosine falls to 0 at the last step; a constant rate can be stopped at any, and gone on from with a cosine."""
    keep: Literal["last", "best"] = "last"
    """best: the adapter of the lowest validation loss, looked at four times an epoch (`training.models.stopping`)."""
    patience: int | None = None
    """With `best`: training stops after so many looks in a row without a lower loss; None: it runs to its end."""

    def steps(self, rows: int) -> int:
        """Optimiser steps for this many rows."""
        return max(1, self.at_least_steps, round(self.epochs * self.steps_per_epoch(rows)))

    def steps_per_epoch(self, rows: int) -> int:
        """Optimiser steps that see each of this many rows once."""
        return -(-rows // self.batch_rows)


@dataclass(frozen=True)
class Tuned:
    """What came of it."""

    steps: int
    row_visits: int
    first_loss: float
    last_loss: float
    losses: Curve = field(default_factory=list)
    """While it trained, on what it learned from: (step, mean loss per completion token)."""
    validation_losses: Curve = field(default_factory=list)
    """The same on validation rows, at a few steps; empty where none were given."""
    validation_rows: int = 0
    kept_step: int | None = None
    """Whose adapter was kept, 0 being the start's, where validation rows chose it; None: the last step's."""
    micro_batch_rows: int = 0
    gradient_checkpointing: bool = False


@dataclass(frozen=True)
class Fit:
    """How an optimiser step is made to fit the memory. It changes what is learned by rounding alone."""

    micro_batch_rows: int
    gradient_checkpointing: bool = False


def new_adapter(base: BaseModel, lora: LoraSection, seed: int) -> PeftModel:
    """Lay a fresh adapter (B = 0) over a fresh base: by default on all linear layers of the blocks (section 5.2)."""
    set_seed(seed)
    model = lay_adapter(base.load(), lora, base.record.id)
    # Not the folder that it happens to be cached in on this machine: the adapter travels.
    model.peft_config[model.active_adapters[0]].base_model_name_or_path = base.record.id
    return model


def load_adapter(
    base: BaseModel, folder: Path, trainable: bool, dtype: torch.dtype | None = None
) -> PeftModel:
    """Lay a saved adapter over a fresh base."""
    return PeftModel.from_pretrained(base.load(dtype), str(folder), is_trainable=trainable)


def finetune_lora(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    seed: int,
    save_to: Path,
    advance: Advance,
    validation: Sequence[TokenRow] = (),
    report_to: Reporting | None = None,
    fit: Fit | None = None,
) -> Tuned:
    """Train the adapter on the rows' completions (mean loss per completion token) and save it.

    `validation` rows are measured a few times on the way, and say when to stop if the schedule asks for it;
    `report_to` is told of both losses, and `fit` says in how many pieces an optimiser step is computed (whole,
    without one).

    Raises:
        TrainingError: something other than the adapter would be trained, or the loss is no number.

    """
    _assert_only_lora_trains(model)
    tuned = train_weights(model, tokenizer, rows, schedule, seed, advance, validation, report_to, fit)
    config: Any = model.peft_config[model.active_adapters[0]]
    if not isinstance(config.target_modules, str):
        config.target_modules = sorted(config.target_modules)  # a set: its order would differ from run to run
    # Embeddings are never trained: left to itself, PEFT would ask the hub whether they were.
    model.save_pretrained(str(save_to), safe_serialization=True, save_embedding_layers=False)
    return tuned


def train_weights(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    seed: int,
    advance: Advance,
    validation: Sequence[TokenRow] = (),
    report_to: Reporting | None = None,
    fit: Fit | None = None,
) -> Tuned:
    """Train whatever weights of the model ask for a gradient, and save nothing. As `finetune` otherwise.

    Raises:
        TrainingError: the loss is no number.

    """
    steps = schedule.steps(len(rows))
    on_cuda = torch.cuda.is_available()
    fit = fit or Fit(schedule.batch_rows)
    if schedule.batch_rows % fit.micro_batch_rows:
        raise ValueError(f"{schedule.batch_rows} rows are not whole micro-batches of {fit.micro_batch_rows}")
    with tempfile.TemporaryDirectory() as scratch, reporting(report_to) as reporters:
        # Everything that would silently change what is learned is set here, whatever Trainer's default is.
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=steps,
            per_device_train_batch_size=fit.micro_batch_rows,
            gradient_accumulation_steps=schedule.batch_rows // fit.micro_batch_rows,
            learning_rate=schedule.learning_rate,
            lr_scheduler_type="cosine" if schedule.rate == "cosine" else "constant_with_warmup",
            warmup_steps=round(0.03 * steps),  # a step of it has rate 0: a short run has none to waste
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch",
            bf16=on_cuda,
            gradient_checkpointing=fit.gradient_checkpointing,
            gradient_checkpointing_kwargs={
                "use_reentrant": False
            },  # the base is frozen: no input asks for a gradient
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
            report_to=[],  # the reporters below: each adapter has its own
            run_name=report_to.title if report_to else None,
            project="gradientspace",
            disable_tqdm=True,
        )
        watcher = _watcher(schedule, tokenizer, len(rows), validation, advance)
        trainer = _AtCompletions(
            model=model,
            args=arguments,
            train_dataset=_Examples(rows),  # type: ignore[arg-type]
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding="longest"),
            callbacks=[*reporters, watcher],
        )
        trainer.model_accepts_loss_kwargs = True  # else the pieces of a step would weigh alike, however long
        watcher.trainer = trainer
        trainer.remove_callback(_printer(trainer))
        trainer.train()
    steps = trainer.state.global_step  # fewer than planned, if it stopped
    if watcher.best is not None:
        watcher.best.restore(model)
    losses = [loss for _, loss in watcher.losses]
    tenth = max(1, len(losses) // 10)
    return Tuned(
        steps=steps,
        row_visits=sum(_batch_sizes(steps, schedule.batch_rows, len(rows))),
        first_loss=sum(losses[:tenth]) / tenth,
        last_loss=sum(losses[-tenth:]) / tenth,
        losses=averaged(watcher.losses),
        validation_losses=watcher.validation_losses,
        validation_rows=len(watcher.validation.rows),
        kept_step=None if watcher.best is None else watcher.best.step,
        micro_batch_rows=fit.micro_batch_rows,
        gradient_checkpointing=fit.gradient_checkpointing,
    )


def _watcher(
    schedule: Schedule,
    tokenizer: PreTrainedTokenizerBase,
    rows: int,
    validation: Sequence[TokenRow],
    advance: Advance,
) -> LossWatch:
    steps = schedule.steps(rows)
    if schedule.keep == "last" or not validation:
        return LossWatch(advance, tokenizer, plan_validation(validation, steps, schedule.batch_rows))
    planned = plan_stopping(validation, steps, schedule.steps_per_epoch(rows), schedule.batch_rows)
    return LossWatch(advance, tokenizer, planned, BestKept(schedule.patience, schedule.rate == "constant"))


class _AtCompletions(Trainer):
    """Computes no logits where nothing is to be predicted.

    Of long prompts with short answers that is most of the head's work; its memory is that of a few hundred positions.
    """

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As `Trainer.compute_loss`: the mean over the completion tokens of the optimiser step."""
        own = self.accelerator.unwrap_model(model)
        labels = inputs["labels"].cpu()  # [B, T]
        with self.accelerator.autocast():  # the wrapper's forward pass, which has its own, is gone round
            losses, _ = token_losses(own, TokenBatch(inputs["input_ids"], inputs["attention_mask"], labels))
        return losses.sum() / (len(losses) if num_items_in_batch is None else num_items_in_batch)


def _batch_sizes(steps: int, batch_rows: int, rows: int) -> list[int]:
    whole, rest = divmod(rows, batch_rows)
    epoch = [batch_rows] * whole + ([rest] if rest else [])
    return [epoch[step % len(epoch)] for step in range(steps)]


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
        return example(self.rows[place])
