"""The loss of an adapter while it trains: on what it learns from, and on validation rows that it never learns from."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from training.errors import TrainingError
from training.models.row_loss import pad_rows, token_losses
from training.models.stopping import POINTS_PER_EPOCH, BestKept
from training.progress import Advance
from training.rows.rendering import TokenRow

Curve = list[tuple[int, float]]
"""(optimiser step, mean loss per completion token)."""

POINTS = 8  # of the validation loss, the first before the first step
_COST = 0.05  # of the training's own time, that the validation loss may take
_COST_OF_STOPPING = 0.1  # the same where it decides when training stops: more rows tell better
_FORWARD = 3  # a forward pass is about a third of a row's training
_LEAST_ROWS = 8
_MOST_POINTS = 200  # of a curve that is kept: a longer one is averaged


@dataclass(frozen=True)
class Validation:
    """Rows that the adapter is measured on, and at which steps."""

    rows: Sequence[TokenRow]
    steps: frozenset[int]


def plan_validation(rows: Sequence[TokenRow], steps: int, batch_rows: int) -> Validation:
    """Choose as many of the rows as a twentieth of the training's time pays for, evenly spaced in its steps."""
    at = frozenset(round(steps * point / (POINTS - 1)) for point in range(POINTS))
    affordable = int(_COST * _FORWARD * steps * batch_rows / len(at))
    return Validation(rows[: max(_LEAST_ROWS, affordable)], at)


def plan_stopping(rows: Sequence[TokenRow], steps: int, steps_per_epoch: int, batch_rows: int) -> Validation:
    """As `plan_validation`, for rows that say when to stop: `POINTS_PER_EPOCH` times an epoch, a tenth of the time."""
    between = max(1, round(steps_per_epoch / POINTS_PER_EPOCH))
    at = frozenset([*range(0, steps - between // 2, between), steps])  # none just before the last
    affordable = int(_COST_OF_STOPPING * _FORWARD * steps * batch_rows / len(at))
    return Validation(rows[: max(_LEAST_ROWS, affordable)], at)


def validation_loss(
    model: Any, tokenizer: PreTrainedTokenizerBase, rows: Sequence[TokenRow], batch_rows: int
) -> float:
    """Return the mean loss per completion token; no random number is drawn, so training goes on as without it."""
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    was_training, total, tokens = model.training, 0.0, 0
    model.eval()
    on_cuda = model.device.type == "cuda"
    try:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=on_cuda):
            for start in range(0, len(ordered), batch_rows):
                batch = pad_rows(
                    ordered[start : start + batch_rows], int(tokenizer.pad_token_id), model.device
                )
                losses, _ = token_losses(model, batch)  # [n]
                total += float(losses.sum())
                tokens += len(losses)
    finally:
        model.train(was_training)
    return total / tokens


def example(row: TokenRow) -> dict[str, list[int]]:
    """Return a row as the model takes it."""
    return {
        "input_ids": list(row.input_ids),
        "attention_mask": [1] * len(row.input_ids),
        "labels": row.labels,
    }


def averaged(curve: Sequence[tuple[int, float]]) -> Curve:
    """Return a curve of few points: each is the mean of its neighbours, at the last one's step."""
    width = -(-len(curve) // _MOST_POINTS) or 1
    pieces = [curve[start : start + width] for start in range(0, len(curve), width)]
    return [(piece[-1][0], sum(loss for _, loss in piece) / len(piece)) for piece in pieces]


class LossWatch(TrainerCallback):
    """Moves the bar, keeps the losses, measures the validation loss, stops on a loss that is no number."""

    def __init__(
        self,
        advance: Advance,
        tokenizer: PreTrainedTokenizerBase,
        validation: Validation,
        best: BestKept | None = None,
    ) -> None:
        """Watch one training; `trainer` is set when it is there, and `best` told of every validation loss."""
        self.best = best
        self.advance = advance
        self.tokenizer = tokenizer
        self.validation = validation
        self.trainer: Trainer | None = None
        self.losses: Curve = []
        self.validation_losses: Curve = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure what the adapter starts from."""
        self._measure(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count an optimiser step."""
        self.advance(1)
        if self.best is not None and self.trainer is not None:
            self.best.count_step(cast("torch.nn.Module", self.trainer.model))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Keep the loss of a step, and measure the validation loss if its turn has come."""
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not torch.isfinite(torch.tensor(loss)):
            raise TrainingError(
                f"The loss became {loss} at step {state.global_step}. Lower the learning rate, or look for rows with "
                "broken text."
            )
        self.losses.append((state.global_step, loss))
        self._measure(
            args, state, control
        )  # here: the trainer forgets the step's loss if told of another before it

    def _measure(self, args: Any, state: Any, control: Any) -> None:
        if self.trainer is None or not self.validation.rows or state.global_step not in self.validation.steps:
            return
        rows, batch_rows = self.validation.rows, args.per_device_train_batch_size
        model = cast("torch.nn.Module", self.trainer.model)
        with self.best.shown(model) if self.best else nullcontext():
            loss = validation_loss(model, self.tokenizer, rows, batch_rows)
            if self.best is not None and self.best.look(state.global_step, loss, model):
                control.should_training_stop = True
        self.validation_losses.append((state.global_step, loss))
        self.trainer.log({"eval_loss": loss})  # to whom train.report_to names
