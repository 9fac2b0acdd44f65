"""A row's gradient by ordinary autograd, batch of one: what the hooks of `RowGradients` are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel

from training.models.row_loss import TokenBatch, row_losses
from training.rows.rendering import IGNORED, TokenRow


@contextmanager
def trainable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let the weights, frozen otherwise, require gradients inside the block."""
    for weight in weights:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(False)


@contextmanager
def in_float64(model: nn.Module) -> Iterator[None]:
    """Give every weight and buffer a float64 copy inside the block, and its own data back after it."""
    tensors = [kept for kept in (*model.parameters(), *model.buffers()) if kept.is_floating_point()]
    data = [kept.data for kept in tensors]
    try:
        for kept in tensors:
            kept.data = kept.data.double()
        yield
    finally:
        for kept, own in zip(tensors, data, strict=True):
            kept.data = own


def own_gradient(
    base: PreTrainedModel, weights: Sequence[nn.Parameter], row: TokenRow
) -> tuple[float, Tensor]:
    """One row's loss from the model's own logits, unpadded and without a mask, and its gradient [d]."""
    device = weights[0].device
    ids = torch.tensor([row.input_ids], device=device)  # [1, T]
    wanted = torch.tensor(row.labels[1:], device=device)  # [T-1]: position t predicts token t+1
    trained = wanted != IGNORED
    logits = base(input_ids=ids, use_cache=False).logits[0, :-1][trained]  # [C, V]
    # Never below float32, and not down to it: in a float64 copy this is the truth for the others.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return _differentiated(cross_entropy(logits, wanted[trained]), weights)


def gathered_gradient(
    base: PreTrainedModel, weights: Sequence[nn.Parameter], batch: TokenBatch
) -> tuple[float, Tensor]:
    """One row's loss as Stage II computes it, in a batch [1, T] that may be padded, and its gradient [d]."""
    return _differentiated(row_losses(base, batch).sum(), weights)


def lengthened(batch: TokenBatch, pad_id: int, length: int) -> TokenBatch:
    """Pad a batch [B, T] further, to [B, length]."""
    more = (0, length - batch.input_ids.shape[1])
    return TokenBatch(
        pad(batch.input_ids, more, value=pad_id),
        pad(batch.attention_mask, more, value=0),
        pad(batch.labels, more, value=IGNORED),
    )


def _differentiated(loss: Tensor, weights: Sequence[nn.Parameter]) -> tuple[float, Tensor]:
    parts = torch.autograd.grad(loss, list(weights), allow_unused=True, materialize_grads=True)
    return float(loss.detach()), torch.cat([part.flatten() for part in parts]).float()
