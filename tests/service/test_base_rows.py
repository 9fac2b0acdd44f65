"""Rows of the base model stay untouched by vLLM's CPU kernels, whatever else is in the batch."""

from __future__ import annotations

import torch


def test_a_row_of_the_base_gets_no_adapters_weights() -> None:
    from vllm.lora.ops.torch_ops import lora_ops

    from service.base_rows import _unmasked_shrink

    weights = torch.randn(2, 1, 4, 8)  # [slots, 1, r, in]
    inputs = torch.randn(3, 8)
    lengths, slots = torch.tensor([2, 1]), torch.tensor([-1, 0])

    def shrunk() -> torch.Tensor:
        output = torch.zeros(3, 4)
        lora_ops.sgmv_shrink(inputs, weights, output, lengths, lengths, slots, 2, 2, 3, 2.0)
        return output

    found = shrunk()
    assert torch.equal(found[:2], torch.zeros(2, 4))
    assert torch.allclose(found[2], 2.0 * weights[0, 0] @ inputs[2], atol=1e-5)

    as_vllm_does = torch.zeros(3, 4)
    _unmasked_shrink(inputs, weights, as_vllm_does, torch.tensor([-1, -1, 0]), 2.0)
    assert as_vllm_does[:2].any(), "vLLM does it right by now: service.base_rows can go"
