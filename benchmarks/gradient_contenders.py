"""The ways to per-row gradients that `benchmarks.gradients` compares, each over one window of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from training.clusters.cache import ExactCache
from training.clusters.centroids import Centroids
from training.gradients.row_gradients import RowGradients, micro_batches
from training.gradients.source import Recomputed
from training.models.row_loss import attention_kernels, pad_rows, row_losses
from training.recipe import ClustersSection
from training.rows.rendering import TokenRow
from training.stages.processes import World

_CLUSTERS = 7  # as many as the paper finds in its mix of data
_CACHE_ROWS = 4  # per cluster: full at once, so that every insert also drops a row, as it does in a long run


class Ours:
    """(a): what Stage II does with a window of rows, in calibration and in the final assignment."""

    def __init__(self, source: RowGradients, rows: Sequence[TokenRow]) -> None:
        """Start from random centroids; `source` must have been entered."""
        self.source = Recomputed(source, rows, World())
        self.batch_rows = ClustersSection().batch_rows
        generator = torch.Generator().manual_seed(0)
        start = torch.randn(_CLUSTERS, source.dimension, generator=generator).to(source.device)
        cache = ExactCache(_CLUSTERS, _CACHE_ROWS, source.dimension, source.device, World())
        self.centroids = Centroids(normalize(start, dim=1), cache, ClustersSection().beta, World())

    def calibrate(self, window: Sequence[int]) -> None:
        """Compute gradients, make them unit vectors, compare with K centroids, fill the cache, move the centroids."""
        unit = self.source.unit(window)  # [m, d]
        for begin in range(0, len(window), self.batch_rows):
            batch = unit[begin : begin + self.batch_rows]
            self.centroids.step(batch, range(len(batch)), len(batch))

    def assign(self, window: Sequence[int]) -> Tensor:
        """Compute gradients, contract each with K centroids, drop it: cosines [m, K]."""
        return self.source.compare(window, self.centroids.now).cosines


class Plain:
    """(b) and (c): ordinary autograd on the same model, its LoRA weights trainable."""

    def __init__(self, model: PeftModel, token_budget: int) -> None:
        """Freeze all but the LoRA weights."""
        self.model = model.eval()
        self.weights: list[nn.Parameter] = []
        for name, weight in model.named_parameters():
            weight.requires_grad_("lora_" in name)
            if "lora_" in name:
                self.weights.append(weight)
        self.base = cast("PreTrainedModel", model.get_base_model())
        self.device = self.weights[0].device
        self.token_budget = token_budget

    def loop(self, rows: Sequence[TokenRow]) -> list[Tensor]:
        """(b), as LESS and ELREA do it: a batch of one row, the model's own loss, backward, one flat vector [d]."""
        vectors = []
        for row in rows:
            ids = torch.tensor([list(row.input_ids)], device=self.device)
            labels = torch.tensor([row.labels], device=self.device)
            self.model(input_ids=ids, labels=labels).loss.backward()
            vectors.append(torch.cat([cast("Tensor", weight.grad).view(-1) for weight in self.weights]))
            self._forget()
        return vectors

    def step(self, rows: Sequence[TokenRow]) -> int:
        """(c), a training step without its optimiser: the same micro-batches, their summed gradients in A and B.

        Loss, gathered head and attention kernels are ours; nothing is checkpointed, here or there. Returns the
        number of micro-batches.
        """
        batches = micro_batches([len(row.input_ids) for row in rows], self.token_budget)
        for places in batches:
            batch = pad_rows([rows[place] for place in places], 0, self.device)
            with attention_kernels(self.device):
                row_losses(self.base, batch).sum().backward()
            self._forget()
        return len(batches)

    def _forget(self) -> None:
        for weight in self.weights:
            weight.grad = None


def needed_operations(model: PeftModel, rows: Sequence[TokenRow]) -> float:
    """Floating-point operations (2 per product and sum) that the rows' gradients cannot do without, [1].

    Counted for each row's own tokens: padding is waste, not work. A linear layer with the adapter merged: forward,
    and the gradient of its input, 4 in out; x A^T and g B, and the two products, 4 r (in + out). The first block's
    q, k and v need no gradient of their input. Attention: two products forward and four backward over the causal
    half, 6 heads head_dim T^2. The head at completion positions: 4 h V. Norms, softmax, activations, the K cosines
    and the cache count nothing.
    """
    per_token = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base = cast("nn.Linear", layer.get_base_layer())
        size, ends = base.in_features * base.out_features, base.in_features + base.out_features
        begins_graph = re.search(r"layers\.0\.self_attn\.[qkv]_proj$", name) is not None
        rank = cast("nn.Linear", layer.lora_A[model.active_adapters[0]]).out_features
        per_token += (2 if begins_graph else 4) * size + 4 * rank * ends
    config: Any = model.get_base_model().config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 6 * config.num_hidden_layers * config.num_attention_heads * head_dim
    head = 4 * config.hidden_size * config.vocab_size
    return float(
        sum(
            len(row.input_ids) * per_token + len(row.input_ids) ** 2 * attention + row.trained_tokens * head
            for row in rows
        )
    )


def padding_share(rows: Sequence[TokenRow], windows: Sequence[Sequence[int]], token_budget: int) -> float:
    """Share of the micro-batches' tokens that are padding, when each window is batched by itself."""
    real = padded = 0
    for window in windows:
        lengths = [len(rows[row].input_ids) for row in window]
        real += sum(lengths)
        for batch in micro_batches(lengths, token_budget):
            padded += len(batch) * max(lengths[place] for place in batch)
    return 1 - real / padded


def product_operations(device: torch.device, size: int) -> tuple[Tensor, Tensor, float]:
    """(d): two square float32 matrices [size, size], and the operations that their product takes."""
    left = torch.randn(size, size, device=device)
    return left, torch.randn(size, size, device=device), 2.0 * size**3
