"""Keep vLLM's CPU kernels from answering the base model's requests with an adapter's weights.

They mark a row of the base model by the slot -1, and then index the adapters' weights with it: the last slot's.
It shows only where requests of the base and of an adapter share a batch. The GPU kernels skip such rows.
vLLM's worker imports this module, because `engine_args` names `CleanBaseRows` as its extension.
"""

from __future__ import annotations

from typing import Any

from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

_unmasked_shrink = lora_ops.bgmv_shrink


class CleanBaseRows:
    """Adds nothing to the worker: that this module is imported is all."""


def _shrink(inputs: Any, weights: Any, output: Any, slots: Any, scaling: float = 1.0) -> None:
    """As vLLM's: `inputs [n, in]` times each row's A into `output [n, r]`; rows of the base get zeros."""
    _unmasked_shrink(inputs, weights, output, slots, scaling)
    output.masked_fill_((slots < 0)[:, None], 0)


lora_ops.bgmv_shrink = _shrink  # what vLLM's own sgmv_shrink calls
punica_cpu.bgmv_shrink = _shrink
