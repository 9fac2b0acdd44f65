"""Keep vLLM's CPU kernels from answering the base model's requests with an adapter's weights.

They mark a row of the base model by the slot -1, and then index the adapters' weights with it: the last slot's.
It shows only where requests of the base and of an adapter share a batch. The GPU kernels skip such rows.
vLLM's worker imports this module, because `engine_args` names `CleanBaseRows` as its extension.
"""

from __future__ import annotations

from torch import Tensor
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

_unmasked_shrink = lora_ops.bgmv_shrink


class CleanBaseRows:
    """Adds nothing to the worker: that this module is imported is all."""


def _shrink(
    inputs: Tensor,
    lora_b_weights: Tensor,
    output_tensor: Tensor,
    lora_indices_tensor: Tensor,
    scaling: float = 1.0,
) -> None:
    """As vLLM's: `inputs [n, in]` times each row's A into `output_tensor [n, r]`; rows of the base get zeros."""
    _unmasked_shrink(inputs, lora_b_weights, output_tensor, lora_indices_tensor, scaling)
    output_tensor.masked_fill_((lora_indices_tensor < 0)[:, None], 0)


lora_ops.bgmv_shrink = _shrink  # what vLLM's own sgmv_shrink calls
punica_cpu.bgmv_shrink = _shrink
