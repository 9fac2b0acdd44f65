"""Where in the model the gradients lie: shares of their squared norm by layer, module and factor (A or B)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from training.errors import TrainingError

_FACTOR = re.compile(r"(?:^|\.)(?P<module>[^.]+)\.lora_(?P<factor>[AB])(?:\.|$)")
_LAYER = re.compile(r"\.(?P<layer>\d+)\.")


def norm_shares(totals: Iterable[tuple[str, float]]) -> dict[str, Any]:
    """Fold the factors' sums of squared norms into shares of the whole.

    `totals` holds (factor name, sum over rows of its squared norm), with names such as
    `base_model.model.model.layers.3.self_attn.q_proj.lora_A.default`. The first number in a name is its layer;
    a factor outside all layers has the layer None.

    Returns:
        a, b: shares of the two factors, which sum to 1. layers: [{layer, a, b}] in order, None last.
        modules: [{module, a, b}], the largest first.

    Raises:
        TrainingError: a name is no LoRA factor's, or every gradient is zero.

    """
    layers: dict[int | None, dict[str, float]] = {}
    modules: dict[str, dict[str, float]] = {}
    whole = {"a": 0.0, "b": 0.0}
    for name, squared in totals:
        found = _FACTOR.search(name)
        if found is None:
            raise TrainingError(
                f"{name} is no LoRA factor, so its gradients belong to no layer of the report."
            )
        number = _LAYER.search(name)
        layer = int(number["layer"]) if number else None
        factor = found["factor"].lower()
        for shares in (
            whole,
            layers.setdefault(layer, {"a": 0.0, "b": 0.0}),
            modules.setdefault(found["module"], {"a": 0.0, "b": 0.0}),
        ):
            shares[factor] += squared
    total = whole["a"] + whole["b"]
    if not total > 0:
        raise TrainingError(
            "All gradients are zero: nothing can be clustered. Warm up longer (warmup.epochs)."
        )
    for shares in (whole, *layers.values(), *modules.values()):
        shares["a"] /= total
        shares["b"] /= total
    return whole | {
        "layers": [
            {"layer": layer} | layers[layer]
            for layer in sorted(layers, key=lambda layer: (layer is None, layer or 0))
        ],
        "modules": [
            {"module": module} | shares
            for module, shares in sorted(modules.items(), key=lambda item: -sum(item[1].values()))
        ],
    }
