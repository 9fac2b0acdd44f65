"""The gradient of every single row in all LoRA weights, at full dimension (sections 5.1 and 5.2).

A LoRA layer is y = W x + s B A x. Where its input is x [b, T, in] and its output has gradient g [b, T, out], each
row's own gradients are, exactly, `s (g B)^T x` [r, in] in A and `s g^T (x A^T)` [out, r] in B: the loss is a sum
over rows, and no row's loss sees another row. So a forward hook keeps x, a hook on the output's gradient forms the
two products, and autograd never computes a summed weight gradient at all. Nothing but x and g is needed, so the
layer itself may run with A and B merged into W: fewer products and passes over memory than a step of training.
docs/measurements/gradient-speed.md has the figures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.errors import AdapterRefused, TrainingError
from training.gradients.plain_lora import check_adapter
from training.models.row_loss import attention_kernels, check_head, pad_rows, row_losses
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow

_SINGLE_EXPERT = re.compile(r"\.experts\.\d+\.")


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
        norms[places] += torch.linalg.vector_norm(gradient, dim=1).double().square()  # [b]


class RowGradients:
    """Computes per-row gradients of one frozen base with one adapter.

    Use as a context manager: on entry it hooks the model and merges the adapter into the base, on exit it undoes
    both (the base's weights are then what they were but for float32 rounding).

    Raises:
        AdapterRefused: at once, if the gradients would not be exact for this adapter or model.

    """

    def __init__(self, model: PeftModel, pad_id: int, token_budget: int) -> None:
        """Freeze the model: eval mode, no weight requires a gradient."""
        check_adapter(model)
        _check_dtypes(model)
        self.model = model.eval().requires_grad_(False)
        self.base = cast("PreTrainedModel", model.get_base_model())
        self.pad_id = pad_id
        self.token_budget = token_budget
        self.device = next(model.parameters()).device
        self._layers = _layers(model)
        self.factors = [factor for _, *factors in self._layers for factor in factors]
        self.dimension = self.factors[-1].stop
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._sink: Sink | None = None
        self._places: Tensor | None = None
        self._shape = torch.Size()  # [b, T] of the micro-batch under way
        self._ran: set[str] = set()  # factors that the forward pass under way has met

    def __enter__(self) -> RowGradients:
        # Merged, a layer is one product instead of three, and what is added to and scaled by is not there. A and B
        # themselves stay, and the gradient in them is a function of the layer's input and its output's gradient.
        self.model.merge_adapter()
        for layer, a, b in self._layers:
            self._handles.append(cast("nn.Module", layer).register_forward_hook(self._hook(layer, a, b)))
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.model.unmerge_adapter()

    def check_head(self, rows: Sequence[TokenRow]) -> None:
        """Check the chunked loss against the model's own logits on a few rows (see `row_loss.check_head`)."""
        with attention_kernels(self.device):
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
        every_loss: list[Tensor] = []
        order: list[int] = []
        for places in micro_batches([len(row.input_ids) for row in rows], self.token_budget):
            self._places = torch.tensor(places).to(self.device, non_blocking=True)
            self._ran.clear()
            batch = pad_rows([rows[place] for place in places], self.pad_id, self.device)
            self._shape = batch.input_ids.shape
            with attention_kernels(self.device):
                losses = row_losses(self.base, batch)  # [b]
                losses.sum().backward()
            every_loss.append(losses.detach())
            order += places
            advance(len(places))
        self._sink = self._places = None
        # Once, at the end: asking for a number makes an accelerator stop and wait.
        if every_loss:
            _check_finite(torch.cat(every_loss), [rows[place] for place in order])

    def _by_row(self, kept: Tensor, factor: Factor) -> Tensor | None:
        """Return a layer's input as [b, T, in], if it is that or the same laid flat; None: rows can't be told apart."""
        if kept.dim() == 3 and kept.shape[:2] == self._shape:
            return kept
        # A single expert sees tokens in an order of its own, however many they happen to be.
        if kept.dim() == 2 and len(kept) == self._shape.numel() and not _SINGLE_EXPERT.search(factor.name):
            return kept.unflatten(0, self._shape)
        return None

    def _hook(self, layer: LoraLayer, a: Factor, b: Factor) -> Callable[..., None]:
        scaling = layer.scaling[self.model.active_adapters[0]]

        def keep_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not torch.is_grad_enabled():
                return  # a forward pass without a backward pass, such as the check of the head
            kept = self._by_row(inputs[0].detach(), a)  # [b, T, in]
            if kept is None or a.name in self._ran:
                raise AdapterRefused(
                    f"{a.name}: it runs twice in one forward pass, or not on [rows, tokens, features], so its "
                    "gradient can't be told apart by row. Use an adapter without it: lora.target_modules=attention, or "
                    "a list of other modules."
                )
            self._ran.add(a.name)
            if not output.requires_grad:
                output.requires_grad_(True)  # the graph begins here: nothing below needs a gradient

            def form_products(of_output: Tensor) -> None:  # [b, T, out], or [b * T, out]
                assert self._sink is not None
                assert self._places is not None
                of_output = of_output.reshape(*kept.shape[:2], -1)
                through_b = (of_output @ b.module.weight).mul_(scaling)  # [b, T, r]
                self._sink.take(self._places, a, torch.bmm(through_b.mT, kept).flatten(1).float())
                through_a = (kept @ a.module.weight.T).mul_(scaling)  # [b, T, r]
                self._sink.take(self._places, b, torch.bmm(of_output.mT, through_a).flatten(1).float())

            output.register_hook(form_products)

        return keep_input


def _layers(model: PeftModel) -> list[tuple[LoraLayer, Factor, Factor]]:
    adapter = model.active_adapters[0]
    layers: list[tuple[LoraLayer, Factor, Factor]] = []
    start = 0
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        pair: list[Factor] = []
        for side, module_of in (("lora_A", layer.lora_A), ("lora_B", layer.lora_B)):
            module = cast("nn.Linear", module_of[adapter])
            stop = start + module.weight.numel()
            pair.append(Factor(f"{name}.{side}.{adapter}", module, start, stop))
            start = stop
        a, b = pair
        layers.append((layer, a, b))
    return layers


def _check_dtypes(model: PeftModel) -> None:
    for name, weight in model.named_parameters():
        if weight.dtype not in (torch.float32, torch.float64):
            raise AdapterRefused(
                f"{name}: it is {str(weight.dtype).removeprefix('torch.')}, and per-row gradients need float32. Load "
                "base and adapter in float32."
            )


def _check_finite(losses: Tensor, rows: Sequence[TokenRow]) -> None:
    finite = torch.isfinite(losses)
    if not bool(finite.all()):
        place = int((~finite).nonzero()[0])
        raise TrainingError(
            f"Row {rows[place].origin}: its loss is {float(losses[place])}. Take the row out, or lower "
            "warmup.learning_rate if many rows do this."
        )


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Places of `lengths`, shortest first, in batches of at most `token_budget` padded tokens (or one row)."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        # Sorted upwards, the newest row is the longest: it sets what the whole batch is padded to.
        if batches and (len(batches[-1]) + 1) * lengths[place] <= token_budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
