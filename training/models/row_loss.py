"""The loss of each row, with the vocabulary touched at completion positions only (section 5.1).

What Stage II differentiates for every row, fine-tuning minimises for a batch: both go through the same lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from training.errors import AdapterRefused
from training.models.architecture import decoder_of
from training.rows.rendering import IGNORED, TokenRow

_HEAD_CHUNK = 256  # positions whose logits exist at once


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded on the right to one length: three tensors [B, T].

    The labels stay on the CPU: where there is something to predict is then known without waiting for the device.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor


def pad_rows(rows: Sequence[TokenRow], pad_id: int, device: torch.device) -> TokenBatch:
    """Pad rows to the longest among them."""
    longest = max(len(row.input_ids) for row in rows)
    input_ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)  # [B, T]
    labels = torch.full_like(input_ids, IGNORED)  # [B, T]
    mask = torch.zeros_like(input_ids)  # [B, T]
    for place, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[place, :length] = torch.tensor(row.input_ids)
        labels[place, :length] = torch.tensor(row.labels)
        mask[place, :length] = 1
    return TokenBatch(input_ids.to(device, non_blocking=True), mask.to(device, non_blocking=True), labels)


def attention_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Only the attention kernels that give a row the same gradient alone and in a padded batch, to rounding.

    On the CPU the fused kernel is as exact as the plain one (tests/training/gradients/test_row_gradients.py) and skips
    what is masked. On CUDA only the plain one is held to be; elsewhere the fused ones are known to differ.
    """
    if device.type == "cpu":
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
    return sdpa_kernel(SDPBackend.MATH)


def row_losses(model: PreTrainedModel | PeftModel, batch: TokenBatch) -> Tensor:
    """Mean loss over each row's own completion tokens, [B].

    A row's loss depends on nothing but the row: that is what makes the gradient of the sum over the batch a sum of the
    rows' own gradients. As `token_losses` otherwise.
    """
    losses, row_of = token_losses(model, batch)  # [n], [n]
    counts = (batch.labels[:, 1:] != IGNORED).sum(1).to(losses.device, non_blocking=True)  # [B]
    return losses.new_zeros(len(batch.labels)).index_add(0, row_of, losses) / counts


def token_losses(model: PreTrainedModel | PeftModel, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """The loss of every completion token [n], and its row's place in the batch [n].

    No attention mask is given: padding stands on the right, and a causal model looks to the left only.
    """
    base = cast("PreTrainedModel", model.get_base_model() if isinstance(model, PeftModel) else model)
    hidden = decoder_of(base)(input_ids=batch.input_ids, use_cache=False).last_hidden_state  # [B, T, h]
    device = hidden.device
    targets = batch.labels[:, 1:]  # [B, T-1]: position t predicts token t+1
    row_of, position = torch.nonzero(targets != IGNORED, as_tuple=True)  # [n], [n]
    wanted = targets[row_of, position].to(device, non_blocking=True)  # [n]
    row_of, position = (where.to(device, non_blocking=True) for where in (row_of, position))
    states = hidden[row_of, position]  # [n, h]
    if torch.is_grad_enabled() and base.get_output_embeddings().weight.requires_grad:  # full fine-tuning
        return cross_entropy(own_logits(base, states).float(), wanted, reduction="none"), row_of
    return _HeadLosses.apply(states, wanted, base), row_of


class _HeadLosses(torch.autograd.Function):
    """Cross entropy [n] of a frozen head's logits at states [n, h], without ever holding logits [n, V].

    A token's loss is differentiated right after it is computed, a chunk at a time: what is kept for the backward
    pass is [n, h]. With 128,000 words in the vocabulary the logits would be sixty times that.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, wanted: Tensor, base: PreTrainedModel) -> Tensor:
        losses, slopes = [], []
        for states_chunk, wanted_chunk in zip(
            states.split(_HEAD_CHUNK), wanted.split(_HEAD_CHUNK), strict=True
        ):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                leaf = states_chunk.detach().requires_grad_(ctx.needs_input_grad[0])
                loss = cross_entropy(own_logits(base, leaf).float(), wanted_chunk, reduction="none")
            losses.append(loss.detach())
            if ctx.needs_input_grad[0]:
                slopes.append(torch.autograd.grad(loss, leaf, torch.ones_like(loss))[0])
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))  # [n, h]
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, of_losses: Tensor) -> tuple[Tensor, None, None]:  # [n]
        (slopes,) = ctx.saved_tensors
        return slopes * of_losses[:, None].to(slopes.dtype), None, None


def own_logits(base: PreTrainedModel, states: Tensor) -> Tensor:
    """Return the logits [n, V] that the model itself makes of hidden states [n, h], whatever it does to them.

    Some scale their logits (Granite, Cohere), cap them (Gemma 2), or change the states before the head. So it is the
    model's own forward pass that runs, with a decoder that returns these states.
    """
    decoder = decoder_of(base)
    tokens = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)  # read by nobody

    def given(*args: Any, **kwargs: Any) -> BaseModelOutputWithPast:
        return _Given(last_hidden_state=cast("torch.FloatTensor", states.unsqueeze(0)))

    own = decoder.__dict__.get("forward")
    decoder.forward = given  # type: ignore[method-assign]
    try:
        logits: Tensor = base(input_ids=tokens, use_cache=False).logits[0]
    finally:
        if own is None:
            del decoder.forward
        else:
            decoder.forward = own
    return logits


@dataclass
class _Given(BaseModelOutputWithPast):
    """What a decoder returns; what a family adds to that (router logits, position deltas) is not there."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def check_head(base: PreTrainedModel, batch: TokenBatch) -> None:
    """Check the gathered head against the model's own logits.

    Raises:
        AdapterRefused: this model computes its logits in another way than head(decoder(x)).

    """
    with torch.no_grad():
        ours = row_losses(base, batch)  # [B]
        logits = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        targets = batch.labels[:, 1:].to(logits.device)  # [B, T-1]
        per_token = cross_entropy(
            logits[:, :-1].float().transpose(1, 2),
            targets,
            reduction="none",
            ignore_index=IGNORED,
        )  # [B, T-1]
        theirs = per_token.sum(1) / (targets != IGNORED).sum(1)  # [B]
    error = float(((ours - theirs).abs() / theirs.abs().clamp_min(1e-6)).max())
    if not error < 1e-4:
        raise AdapterRefused(
            f"{type(base).__name__}: the loss from its head at completion positions differs from the loss of its own "
            f"logits by {error:.1e} (relative); Stage II would cluster wrong gradients. Use another base model."
        )
