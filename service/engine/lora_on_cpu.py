"""Adapters on a CPU: each one's rows in one matrix product, and the base model's rows left alone.

vLLM's own CPU kernels copy an adapter's weights once for every token of a batch. They also mark a row of the base
model by the slot -1 and then index the weights with it, so that row is answered with the last slot's adapter. It shows
only where requests of the base and of an adapter share a batch. The GPU kernels do neither.
vLLM's worker imports this module, because `engine_args` names `LoraOnCpu` as its extension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.punica_wrapper import punica_cpu

from service.engine import seeds_on_cpu  # noqa: F401 - the other fault that its import mends

_unmasked_shrink = lora_ops.bgmv_shrink


class LoraOnCpu:
    """Adds nothing to the worker: that this module is imported is all."""


@dataclass(frozen=True)
class Groups:
    """Which rows of a batch belong to which adapter's slot; rows of the base are in none."""

    order: Tensor | None
    """Row numbers, slot by slot, `[m]`; None: all rows are an adapter's, and stand slot by slot already."""
    spans: tuple[tuple[int, int, int], ...]
    """(slot, start, end) of each adapter's rows in that order."""


def groups_of(slots: Tensor) -> Groups:
    """Group the rows of a batch by their adapters' slots `[n]`, where -1 is the base."""
    order = torch.argsort(slots, stable=True)  # [n], the base's first
    found, counts = torch.unique_consecutive(slots[order], return_counts=True)
    spans, start, of_base = [], 0, 0
    for slot, count in zip(found.tolist(), counts.tolist(), strict=True):
        if slot < 0:
            of_base = count
            continue
        spans.append((slot, start, start + count))
        start += count
    in_order = of_base == 0 and bool((order[1:] > order[:-1]).all())
    return Groups(None if in_order else order[of_base:], tuple(spans))


class GroupedRows(punica_cpu.PunicaWrapperCPU):
    """vLLM's CPU wrapper, with the linear layers' product taken adapter by adapter."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """As vLLM's: take the mapping from rows to slots of the coming forward passes."""
        super().update_metadata(*args, **kwargs)
        self._groups = groups_of(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add `scale * x Aᵀ Bᵀ` to `y [n, out]` in place, each row of `x [n, in]` with its own adapter's A and B.

        Slice i of the output has stacks A `[slots, 1, r, in]` and B `[slots, 1, out_i, r]`.
        """
        if torch.compiler.is_compiling():  # a compiled graph can't depend on who is in the batch
            stacks = (lora_a_stacked, lora_b_stacked)
            super().add_lora_linear(y, x, *stacks, scale, output_slices, buffer=buffer, **kwargs)
            return
        order, spans = self._groups.order, self._groups.spans
        x, y = x.view(-1, x.shape[-1]), y.view(-1, y.shape[-1])
        rows = x if order is None else x.index_select(0, order)  # [m, in]
        outputs = y if order is None else y.index_select(0, order)  # [m, out]
        for slot, start, end in spans:
            offset = 0
            for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
                shrunk = rows[start:end] @ a[slot, 0].T  # [rows of the slot, r]
                outputs[start:end, offset : offset + size].addmm_(shrunk, b[slot, 0].T, alpha=scale)
                offset += size
        if order is not None:
            y.index_copy_(0, order, outputs)


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


punica_cpu.PunicaWrapperCPU = GroupedRows  # type: ignore[misc]  # where the platform looks it up
# What is not a plain linear layer, and a compiled graph, still go through vLLM's shrink.
lora_ops.bgmv_shrink = _shrink  # what vLLM's own sgmv_shrink calls
punica_cpu.bgmv_shrink = _shrink
