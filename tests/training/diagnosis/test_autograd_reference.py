"""The loop that the hooks are judged by is itself exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.stand_ins.sick_models import ROWS
from tests.stand_ins.tiny_model import tiny_llama, with_adapter
from training.diagnosis.autograd_reference import gathered_gradient, in_float64, own_gradient, trainable
from training.models.row_loss import pad_rows


def test_the_truth_stays_in_float64() -> None:
    model = with_adapter(tiny_llama()).eval()
    base, row = model.get_base_model(), ROWS[0]
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    with in_float64(model), trainable(weights):
        loss, _ = own_gradient(base, weights, row)
        logits = base(input_ids=torch.tensor([row.input_ids])).logits[0, row.prompt_length - 1 : -1]
    places, wanted = range(len(logits)), list(row.input_ids[row.prompt_length :])
    by_hand = -float(logits.detach().log_softmax(-1)[places, wanted].mean())
    assert loss == pytest.approx(by_hand, rel=1e-12)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_truth_is_of_every_answer_that_is_trained_on() -> None:
    model = with_adapter(tiny_llama()).eval()
    base, row = model.get_base_model(), replace(ROWS[0], earlier=((1, 2),))
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    with in_float64(model), trainable(weights):
        loss, gradient = own_gradient(base, weights, row)
        batch = pad_rows([row], 0, torch.device("cpu"))
        assert loss != pytest.approx(own_gradient(base, weights, ROWS[0])[0], rel=1e-3)
        assert loss == pytest.approx(gathered_gradient(base, weights, batch)[0], rel=1e-6)
        assert torch.allclose(gradient, gathered_gradient(base, weights, batch)[1], atol=1e-6)
