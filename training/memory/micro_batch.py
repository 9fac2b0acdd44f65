"""What one micro-batch needs beside the weights, counted by running it without memory.

The real model and the real per-row gradients run on PyTorch's meta device, which has shapes and nothing else, and
every tensor that lives is counted: whatever autograd keeps, layer by layer, is not guessed.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from training.gradients.row_gradients import RowGradients, WholeRows
from training.memory.model_shape import ModelShape
from training.rows.rendering import TokenRow

_META = torch.device("meta")

# glibc takes blocks of 32 MiB and more from the system and gives them back at once. Smaller ones come from its
# heap, which aligned blocks leave full of holes: measured (docs/measurements/memory.md) for the same living tensors.
_HEAP_LIMIT = 32 << 20
HEAP_WITH_HOLES = 1.75


@dataclass(frozen=True)
class MicroBatchMemory:
    """Bytes at the highest point of a forward and backward pass over `rows` rows of `tokens` tokens."""

    rows: int
    tokens: int
    activations: int
    """What lives: what autograd keeps, the logits of one chunk, the micro-batch's products of one layer."""
    heap: int
    """What of it lies on the C library's heap, holes included, and stays there; 0 on a GPU."""

    @property
    def total(self) -> int:
        """Bytes taken from the system."""
        return self.activations + self.heap


def micro_batch_memory(
    shape: ModelShape, token_budget: int, longest: int, longest_completion: int, on_cpu: bool
) -> MicroBatchMemory:
    """Return what the most demanding micro-batch takes, of rows of at most `longest` tokens.

    Two can be the most demanding: as many of the longest rows as the budget allows, and one row more, of those
    that then fill the budget.
    """
    most_rows = max(1, token_budget // longest)
    batches = {(most_rows, longest)}
    if token_budget // (most_rows + 1) > 1:
        batches.add((most_rows + 1, min(longest, token_budget // (most_rows + 1))))
    found = [_run(shape, rows, tokens, longest_completion, on_cpu) for rows, tokens in sorted(batches)]
    return max(found, key=lambda memory: memory.total)


def _run(shape: ModelShape, rows: int, tokens: int, completion: int, on_cpu: bool) -> MicroBatchMemory:
    prompt = max(1, tokens - completion)
    row = TokenRow("", None, "", (0,) * tokens, prompt)
    with RowGradients(shape.build(), pad_id=0, token_budget=rows * tokens) as source:
        sink = WholeRows(torch.empty(rows, source.dimension, device=_META))  # not the micro-batch's own
        known = [*source.model.parameters(), *source.model.buffers(), sink.gradients]
        living = LivingTensors(known)
        with CpuAttention() if on_cpu else nullcontext(), living:
            source.stream([row] * rows, sink)
    small = living.small_at_peak if on_cpu else 0
    return MicroBatchMemory(
        rows, tokens, activations=living.peak - small, heap=round(HEAP_WITH_HOLES * small)
    )


class LivingTensors(TorchDispatchMode):
    """Counts the bytes of tensors that live, `known` ones apart, and remembers the highest point."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self._sizes = {_storage(tensor)._cdata: 0 for tensor in known}
        self._known = known  # held, so that no other tensor takes their place in memory
        self._small = self._large = 0
        self.peak = self.small_at_peak = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1  # whether all losses are finite: they are
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(_storage(tensor))
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self._add(storage.nbytes())
        weakref.finalize(storage, self._free, storage._cdata)
        if self._small + self._large > self.peak:
            self.peak, self.small_at_peak = self._small + self._large, self._small

    def _free(self, key: int) -> None:
        self._add(-self._sizes.pop(key))

    def _add(self, size: int) -> None:
        if abs(size) < _HEAP_LIMIT:
            self._small += size
        else:
            self._large += size


class CpuAttention(TorchFunctionMode):
    """Takes the kernel that `attention_kernels` allows on a CPU: it keeps no probabilities [b, heads, T, T]."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **given)
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *args,
            given.get("dropout_p", 0.0),
            given.get("is_causal", False),
            attn_mask=given.get("attn_mask"),
            scale=given.get("scale"),
        )[0]


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
