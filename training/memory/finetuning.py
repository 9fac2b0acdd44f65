"""What fine-tuning holds, and into how many pieces an optimiser step is cut so that it fits the memory budget.

As for Stage II nothing is guessed: the real model runs forward and backward on PyTorch's meta device, in training mode,
and every tensor that lives is counted (`training.memory.micro_batch`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from training.errors import TrainingError
from training.memory.machine import Budget
from training.memory.micro_batch import HEAP_WITH_HOLES, CpuAttention, LivingTensors
from training.memory.model_shape import ModelShape
from training.memory.sizes import gigabytes
from training.models.row_loss import pad_rows, token_losses
from training.recipe import TrainSection
from training.rows.rendering import TokenRow

_META = torch.device("meta")
_OPTIMISER_COPIES = 2  # AdamW's two moments, float32; the gradient is counted where it lives


@dataclass(frozen=True)
class StepFit:
    """How an optimiser step of `batch_rows` rows is computed, and the most that the process holds in it."""

    batch_rows: int
    micro_batch_rows: int
    gradient_checkpointing: bool
    peak_bytes: int

    @property
    def said(self) -> str:
        """In words."""
        pieces = self.batch_rows // self.micro_batch_rows
        how = f"{pieces} x {self.micro_batch_rows} rows" if pieces > 1 else f"{self.batch_rows} rows at once"
        return how + (", with gradient checkpointing" if self.gradient_checkpointing else "")


@dataclass(frozen=True)
class FineTuning:
    """What is fine-tuned: the base's shape and bytes per weight, dropout, the longest row and completion in tokens."""

    shape: ModelShape
    weight_bytes: int
    dropout: float
    longest: int
    longest_completion: int


def fit_step(given: FineTuning, section: TrainSection, batch_rows: int, budget: Budget) -> StepFit:
    """Choose how an optimiser step is computed: in as few pieces as fit; checkpointing where not even one row does.

    Raises:
        TrainingError: one row does not fit, whatever is chosen.

    """
    most = min(section.micro_batch_rows or batch_rows, batch_rows)
    sizes = [rows for rows in range(most, 0, -1) if batch_rows % rows == 0]
    choices = {"on": (True,), "off": (False,), "auto": (False, True)}[section.gradient_checkpointing]
    for checkpointing in choices:
        most_bytes = _peak(given, sizes[0], checkpointing, budget)
        if most_bytes <= budget.memory_bytes:
            return StepFit(batch_rows, sizes[0], checkpointing, most_bytes)
        one = _peak(given, 1, checkpointing, budget)  # between the two it grows by the same for every row
        for rows in sizes[1:]:
            peak = one + (most_bytes - one) * (rows - 1) // max(1, sizes[0] - 1)
            if peak <= budget.memory_bytes:
                return StepFit(batch_rows, rows, checkpointing, peak)
        least = StepFit(batch_rows, 1, checkpointing, one)
    instead = "" if section.gradient_checkpointing != "off" else "train.gradient_checkpointing=auto, "
    raise TrainingError(
        f"Fine-tuning needs at least {gigabytes(least.peak_bytes)} of memory ({least.micro_batch_rows} of the longest "
        f"rows, {given.longest:,} tokens, at once), and the memory budget is {gigabytes(budget.memory_bytes)}. Raise "
        f"--memory-budget, or take {instead}a smaller data.max_length, lora.rank or base model."
    )


def _peak(given: FineTuning, rows: int, checkpointing: bool, budget: Budget) -> int:
    model = given.weight_bytes * given.shape.weights + 4 * given.shape.dimension
    optimiser = _OPTIMISER_COPIES * 4 * given.shape.dimension
    return budget.resident_bytes + model + optimiser + _activations(given, rows, checkpointing, budget.on_cpu)


def _activations(given: FineTuning, rows: int, checkpointing: bool, on_cpu: bool) -> int:
    """Bytes that live beside weights and optimiser at the highest point of a pass.

    Activations, the logits of a chunk of completion positions, gradients.
    """
    model = given.shape.build()
    for module in model.modules():
        if "default" in getattr(module, "lora_dropout", {}):
            module.lora_dropout["default"] = torch.nn.Dropout(given.dropout)  # type: ignore[union-attr, operator, index, assignment]
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    prompt = max(1, given.longest - given.longest_completion)
    batch = pad_rows([TokenRow("", None, "", (0,) * given.longest, prompt)] * rows, pad_id=0, device=_META)
    living = LivingTensors([*model.parameters(), *model.buffers(), batch.input_ids])
    with _cpu_attention() if on_cpu else nullcontext(), living:
        token_losses(model, batch)[0].sum().backward()
    small = living.small_at_peak if on_cpu else 0
    counted = living.peak - small + round(HEAP_WITH_HOLES * small)
    return counted * given.weight_bytes // 4 if given.weight_bytes < 4 else counted


@contextmanager
def _cpu_attention() -> Iterator[None]:
    """As `CpuAttention`, which does not reach into the backward pass, where checkpointing computes again."""
    plain = torch.nn.functional.scaled_dot_product_attention

    def kernel(*args: Any, **kwargs: Any) -> torch.Tensor:
        with CpuAttention():
            return plain(*args, **kwargs)

    torch.nn.functional.scaled_dot_product_attention = kernel
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = plain
