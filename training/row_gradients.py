"""The gradient of every single row in all LoRA weights, at full dimension (sections 5.1 and 5.2).

PEFT computes `lora_B(lora_A(x)) * scaling` from two plain Linears. For a Linear with input a [B, T, in] whose
output has gradient o [B, T, out], `o^T a` is each row's own weight gradient [B, out, in], exactly: the loss is
a sum over rows, and no row's loss sees another row. So a forward hook keeps a, a hook on the output's gradient
forms the product, and autograd never computes a summed weight gradient at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from training.adapter_check import check_adapter
from training.errors import AdapterRefused, TrainingError
from training.micro_batches import micro_batches
from training.progress import Advance, ignore_progress
from training.rendering import TokenRow
from training.row_loss import check_head, pad_rows, row_losses


@dataclass(frozen=True)
class Factor:
    """One LoRA weight: its module and its place [start, stop) in the gradient's d entries."""

    name: str
    module: nn.Linear
    start: int
    stop: int

    @property
    def is_b(self) -> bool:
        """Whether it is B (it starts at zero) rather than A."""
        return ".lora_B." in self.name


class Sink(Protocol):
    """Takes gradients as they come: factor by factor, a micro-batch at a time."""

    def take(self, places: Tensor, factor: Factor, gradient: Tensor) -> None:
        """Take the rows' gradients [b, out * in] in one factor; `places` [b] are the rows' places in the call."""
        ...


@dataclass
class WholeRows:
    """Keeps the whole gradients: [n, d] float32."""

    gradients: Tensor

    def take(self, places: Tensor, factor: Factor, gradient: Tensor) -> None:
        """As `Sink.take`."""
        self.gradients[places, factor.start : factor.stop] = gradient


@dataclass
class Contracted:
    """Keeps, of each gradient, its products with the K centroids and its squared norm, and drops the rest."""

    centroids: Tensor  # [K, d]
    products: Tensor  # [n, K]
    squared_norm_a: Tensor = field(init=False)  # [n]
    squared_norm_b: Tensor = field(init=False)  # [n]

    def __post_init__(self) -> None:
        self.squared_norm_a = self.products.new_zeros(self.products.shape[0], dtype=torch.float64)
        self.squared_norm_b = self.squared_norm_a.clone()

    def take(self, places: Tensor, factor: Factor, gradient: Tensor) -> None:
        """As `Sink.take`."""
        self.products[places] += gradient @ self.centroids[:, factor.start : factor.stop].T  # [b, K]
        norms = self.squared_norm_b if factor.is_b else self.squared_norm_a
        norms[places] += gradient.square().sum(1).double()  # [b]


class RowGradients:
    """Computes per-row gradients of one frozen base with one adapter.

    Use as a context manager: it hooks the model on entry and takes the hooks away on exit.

    Raises:
        AdapterRefused: on entry, if the gradients would not be exact for this adapter or model.

    """

    def __init__(self, model: PeftModel, pad_id: int, token_budget: int) -> None:
        """Freeze the model: eval mode, no weight requires a gradient."""
        check_adapter(model)
        self.model = model.eval().requires_grad_(False)
        self.base = cast("PreTrainedModel", model.get_base_model())
        self.pad_id = pad_id
        self.token_budget = token_budget
        self.device = next(model.parameters()).device
        self.factors = _factors(model)
        self.dimension = self.factors[-1].stop
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._sink: Sink | None = None
        self._places: Tensor | None = None
        self._ran: set[str] = set()  # factors that the forward pass under way has met

    def __enter__(self) -> RowGradients:
        # The frozen embeddings' output is where the graph begins: without this no output would get a gradient.
        embeddings = self.base.get_input_embeddings()
        self._handles.append(embeddings.register_forward_hook(lambda *call: call[2].requires_grad_(True)))
        for factor in self.factors:
            self._handles.append(factor.module.register_forward_hook(self._hook(factor)))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def check_head(self, rows: Sequence[TokenRow]) -> None:
        """Check the chunked loss against the model's own logits on a few rows (see `row_loss.check_head`)."""
        with sdpa_kernel(SDPBackend.MATH):
            check_head(self.base, pad_rows(rows, self.pad_id, self.device))

    def whole(self, rows: Sequence[TokenRow], advance: Advance = ignore_progress) -> Tensor:
        """Return the rows' gradients in their order, [n, d] float32, not normalised."""
        sink = WholeRows(torch.zeros(len(rows), self.dimension, device=self.device))
        self.stream(rows, sink, advance)
        return sink.gradients

    def contracted(
        self, rows: Sequence[TokenRow], centroids: Tensor, advance: Advance = ignore_progress
    ) -> Contracted:
        """Return the rows' products with centroids [K, d] and their norms, keeping no gradient."""
        sink = Contracted(centroids, torch.zeros(len(rows), centroids.shape[0], device=self.device))
        self.stream(rows, sink, advance)
        return sink

    def stream(self, rows: Sequence[TokenRow], sink: Sink, advance: Advance = ignore_progress) -> None:
        """Send every row's gradient to the sink, in micro-batches that the sink can't tell apart.

        Raises:
            TrainingError: a row's loss is not a number; it is named.
            AdapterRefused: a LoRA layer is shared between places of the model, or mixes the rows.

        """
        self._sink = sink
        for places in micro_batches([len(row.input_ids) for row in rows], self.token_budget):
            self._places = torch.tensor(places, device=self.device)
            self._ran.clear()
            batch = pad_rows([rows[place] for place in places], self.pad_id, self.device)
            with sdpa_kernel(SDPBackend.MATH):
                losses = row_losses(self.base, batch)  # [b]
                _check_finite(losses.detach(), [rows[place] for place in places])
                losses.sum().backward()
            advance(len(places))
        self._sink = self._places = None

    def _hook(self, factor: Factor) -> Callable[..., None]:
        def keep_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not output.requires_grad:
                return  # a forward pass without a backward pass, such as the check of the head
            kept = inputs[0].detach()  # [b, T, in]
            if kept.dim() != 3 or factor.name in self._ran:
                raise AdapterRefused(
                    f"{factor.name}: it runs twice in one forward pass, or not on [rows, tokens, features], so its "
                    "gradient can't be told apart by row. Use an adapter without it."
                )
            self._ran.add(factor.name)

            def form_product(of_output: Tensor) -> None:  # [b, T, out]
                assert self._sink is not None
                assert self._places is not None
                gradient = torch.bmm(of_output.mT, kept)  # [b, out, in]
                self._sink.take(self._places, factor, gradient.flatten(1).float())

            output.register_hook(form_product)

        return keep_input


def _factors(model: PeftModel) -> list[Factor]:
    adapter = model.active_adapters[0]
    factors: list[Factor] = []
    start = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        for side, module_of in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            module = cast("nn.Linear", module_of[adapter])
            stop = start + module.weight.numel()
            factors.append(Factor(f"{name}.{side}.{adapter}", module, start, stop))
            start = stop
    return factors


def _check_finite(losses: Tensor, rows: Sequence[TokenRow]) -> None:
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        raise TrainingError(
            f"Row {rows[place].origin}: its loss is {float(losses[place])}. Take the row out, or lower "
            "warmup.learning_rate if many rows do this."
        )
