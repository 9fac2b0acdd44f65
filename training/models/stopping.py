"""When to stop training an adapter, and which of it to keep, by its loss on rows that it never learns from.

Ours. The adapter with the lowest such loss is kept, the one that training began with included: an expert that never
gets better than its start is its start. At a rate that does not fall, single steps are noise (on the demo the loss
goes up and down by a tenth between two looks): there the mean of all weights since the last look is what is looked at
and kept (stochastic weight averaging, arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

POINTS_PER_EPOCH = 4
"""Ours: how often it is looked at. Each costs a forward pass over the validation rows."""


class BestKept:
    """The trained weights at the lowest validation loss so far, on the CPU."""

    def __init__(self, patience: int | None = None, averaged: bool = False) -> None:
        """Give up after `patience` looks in a row without a lower loss; None: never. `averaged`: see above."""
        self._patience = patience
        self._averaged = averaged
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._without = 0
        self._lowest = float("inf")
        self._weights: dict[str, Tensor] = {}
        self.step = 0
        """The optimiser step that the kept weights are of."""

    def count_step(self, model: torch.nn.Module) -> None:
        """Take a step's weights into the mean."""
        if self._averaged:
            self._steps += 1
            for name, weight in _trained(model):
                now = weight.detach().double()
                self._sums[name] = self._sums[name] + now if name in self._sums else now

    @contextmanager
    def shown(self, model: torch.nn.Module) -> Iterator[None]:
        """Give the model the weights that are to be looked at, and its own back at the end."""
        if not self._steps:
            yield
            return
        own = {name: weight.detach().clone() for name, weight in _trained(model)}
        _put(model, {name: total / self._steps for name, total in self._sums.items()})
        try:
            yield
        finally:
            _put(model, own)

    def look(self, step: int, loss: float, model: torch.nn.Module) -> bool:
        """Take note of the loss of the weights that are `shown`; return whether training should stop."""
        if loss < self._lowest:
            self._lowest, self._without, self.step = loss, 0, step
            self._weights = {name: weight.detach().to("cpu", copy=True) for name, weight in _trained(model)}
        else:
            self._without += 1
        self._sums, self._steps = {}, 0
        return self._patience is not None and self._without >= self._patience

    def restore(self, model: torch.nn.Module) -> None:
        """Put the kept weights back; without a single look the model stays as it is."""
        _put(model, self._weights)


def _put(model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in _trained(model):
            if name in weights:
                weight.copy_(weights[name])


def _trained(model: torch.nn.Module) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
