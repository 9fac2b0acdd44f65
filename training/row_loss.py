"""The loss of each row, with the vocabulary touched at completion positions only (section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from training.errors import AdapterRefused
from training.rendering import IGNORED, TokenRow

_HEAD_CHUNK = 4096  # positions whose logits are held at once


@dataclass(frozen=True)
class TokenBatch:
    """Rows padded on the right to one length: three tensors [B, T]."""

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
    return TokenBatch(input_ids.to(device), mask.to(device), labels.to(device))


def row_losses(base: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Mean loss over each row's own completion tokens, [B].

    `base` is the model under the PEFT wrapper, adapter layers in place. A row's loss depends on nothing but the
    row: that is what makes the gradient of the sum over the batch a sum of the rows' own gradients.
    """
    hidden = base.get_decoder()(  # [B, T, h]
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    targets = batch.labels[:, 1:]  # [B, T-1]: position t predicts token t+1
    row_of, position = torch.nonzero(targets != IGNORED, as_tuple=True)  # [n], [n]
    wanted = targets[row_of, position]  # [n]
    states = hidden[row_of, position]  # [n, h]
    head = base.get_output_embeddings()
    token_losses = torch.cat(
        [
            cross_entropy(head(states_chunk).float(), wanted_chunk, reduction="none")
            for states_chunk, wanted_chunk in zip(
                states.split(_HEAD_CHUNK), wanted.split(_HEAD_CHUNK), strict=True
            )
        ]
    )  # [n]
    rows = batch.input_ids.shape[0]
    counts = torch.bincount(row_of, minlength=rows).to(token_losses.dtype)  # [B]
    return token_losses.new_zeros(rows).index_add(0, row_of, token_losses) / counts


def check_head(base: PreTrainedModel, batch: TokenBatch) -> None:
    """Check the gathered head against the model's own logits.

    Raises:
        AdapterRefused: this model computes its logits in another way than head(decoder(x)).

    """
    with torch.no_grad():
        ours = row_losses(base, batch)  # [B]
        logits = base(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        per_token = cross_entropy(
            logits[:, :-1].float().transpose(1, 2),
            batch.labels[:, 1:],
            reduction="none",
            ignore_index=IGNORED,
        )  # [B, T-1]
        theirs = per_token.sum(1) / (batch.labels[:, 1:] != IGNORED).sum(1)  # [B]
    error = float(((ours - theirs).abs() / theirs.abs().clamp_min(1e-6)).max())
    if not error < 1e-4:
        raise AdapterRefused(
            f"{type(base).__name__}: the loss from its head at completion positions differs from the loss of its own "
            f"logits by {error:.1e} (relative); Stage II would cluster wrong gradients. Use another base model."
        )
