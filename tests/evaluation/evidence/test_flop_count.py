from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from evaluation.evidence.flop_count import FlopCount
from tests.stand_ins.tiny_model import tiny_llama


def test_a_product_is_two_operations_per_multiply_add_forward_and_twice_that_backward() -> None:
    layer = torch.nn.Linear(7, 5, bias=False)
    rows = torch.randn(3, 7, requires_grad=True)
    with FlopCount() as count:
        made = layer(rows)
        forward = count.total
        made.sum().backward()
    assert forward == 2 * 3 * 7 * 5
    assert count.total == 3 * forward  # to the input, and to the weight


def test_a_model_counts_as_pytorchs_own_counter_counts_it() -> None:
    model, ids = tiny_llama().eval(), torch.arange(10, 31)[None]
    with torch.no_grad():
        with FlopCount() as ours:
            model(input_ids=ids)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            counter = FlopCounterMode(display=False)
            with counter:
                model(input_ids=ids)
    assert ours.total == counter.get_total_flops() > 0
