"""Adapters on a CPU: every row meets its own adapter, and a row of the base none, whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch

_SLOTS, _RANK, _IN, _OUTS = 4, 3, 8, (6, 2)


def _wrapper(slots: list[int]):
    from vllm.lora.layers.utils import LoRAMapping

    from service.engine.lora_on_cpu import GroupedRows

    wrapper = GroupedRows(64, 16, "cpu")
    ids = tuple(slot + 1 for slot in slots)  # vLLM's adapter ids: 0 is the base
    wrapper.update_metadata(
        LoRAMapping(ids, ids, is_prefill=True), [place + 1 for place in range(_SLOTS)], _SLOTS, 100
    )
    return wrapper


@pytest.mark.parametrize(
    "slots",
    [
        pytest.param([2], id="one row"),
        pytest.param([0, 0, 1, 1, 3], id="slot by slot"),
        pytest.param([3, 3, 1], id="slots in falling order"),
        pytest.param([1, 0, 1, 3, 0], id="mixed"),
        pytest.param([-1, 2, -1, 0], id="with rows of the base"),
        pytest.param([-1, -1, 3], id="the base first"),
        pytest.param([-1, -1], id="the base only"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_row_meets_its_own_adapter(slots: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(len(slots), _IN, dtype=dtype), torch.randn(len(slots), sum(_OUTS), dtype=dtype)
    a = tuple(torch.randn(_SLOTS, 1, _RANK, _IN, dtype=dtype) for _ in _OUTS)
    b = tuple(torch.randn(_SLOTS, 1, out, _RANK, dtype=dtype) for out in _OUTS)

    expected = y.double()
    for row, slot in enumerate(slots):
        if slot >= 0:
            deltas = [
                B[slot, 0].double() @ A[slot, 0].double() @ x[row].double() for A, B in zip(a, b, strict=True)
            ]
            expected[row] += 0.5 * torch.cat(deltas)

    found = y.clone()
    _wrapper(slots).add_lora_linear(found, x, a, b, 0.5, _OUTS)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert torch.allclose(found.double(), expected, atol=tolerance, rtol=tolerance)
    of_base = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(found[of_base], y[of_base]), "rows of the base are not to be touched at all"


def test_vllm_builds_this_wrapper() -> None:
    from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper
    from vllm.platforms import current_platform

    from service.engine.lora_on_cpu import GroupedRows

    if not current_platform.is_cpu():
        pytest.skip("NOT TESTED: this is vLLM's GPU build, which has kernels of its own")
    assert isinstance(get_punica_wrapper(64, 16, "cpu"), GroupedRows)


def test_a_row_of_the_base_gets_no_adapters_weights_from_vllms_own_shrink_either() -> None:
    from vllm.lora.ops.torch_ops import lora_ops

    from service.engine.lora_on_cpu import _unmasked_shrink

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
    assert as_vllm_does[:2].any(), "vLLM does it right by now: the masked shrink can go"
