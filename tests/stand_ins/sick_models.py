"""Faults for the diagnosis to find: models that have them, and gradients that tell how much they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.stand_ins.tiny_model import PAD, dozen_rows, tiny_llama, with_adapter
from training.diagnosis.diagnosis import diagnose, require_healthy
from training.diagnosis.properties import Check
from training.errors import AdapterRefused
from training.rows.rendering import TokenRow

ROWS = dozen_rows()[:5]
BUDGET = 1 << 12
SHORTEST = sorted(ROWS, key=lambda row: len(row.input_ids))[:2]  # what precision is measured on


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.check: check for check in checks}


def failed(model: PeftModel, rows: list[TokenRow] = ROWS, budget: int = BUDGET) -> Check:
    """The one check that fails; what the command would stop with names it."""
    checks = diagnose(model, rows, PAD, budget)
    failures = [check for check in checks if check.passed is False]
    assert [check.check for check in failures] != []
    assert len(failures) == 1, [(check.check, check.value) for check in failures]
    for check in checks:
        if check.passed is None and check.value is None:
            assert "not measured: " in check.meaning
    with pytest.raises(AdapterRefused) as stopped:
        require_healthy(checks)
    for part in (failures[0].check, failures[0].meaning, failures[0].advice, f"{failures[0].limit:g}"):
        assert part in str(stopped.value)
    return failures[0]


def gradient(model: PeftModel, rows: list[TokenRow], wanted: int = 0, length: int | None = None) -> Tensor:
    """An independent gradient [d] of one row's loss, computed in a padded batch with the others."""
    length = length or max(len(row.input_ids) for row in rows)
    ids = torch.tensor([[*row.input_ids, *[PAD] * (length - len(row.input_ids))] for row in rows])
    mask = torch.tensor([[place < len(row.input_ids) for place in range(length)] for row in rows]).long()
    row = rows[wanted]
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    for weight in weights:
        weight.requires_grad_(True)
    logits = model.eval()(input_ids=ids, attention_mask=mask).logits[wanted]
    span = slice(row.prompt_length - 1, len(row.input_ids) - 1)
    loss = cross_entropy(logits[span], ids[wanted, row.prompt_length : len(row.input_ids)])
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, weights)])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def patched(change: Callable[[Tensor], Tensor], **changes: Any) -> PeftModel:
    """An adapted Llama whose first block's output is changed."""
    model = with_adapter(tiny_llama(**changes))
    block = model.get_base_model().model.layers[0]
    forward = block.forward

    def changed(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    block.forward = changed
    return model
