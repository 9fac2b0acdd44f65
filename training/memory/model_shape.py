"""What a base model's config alone says: the length d of a row's gradient, and how many weights there are.

Nothing is estimated: the model is built on PyTorch's meta device, which has shapes and no memory, and PEFT lays
its adapter over it as it does in training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from training.errors import RecipeError
from training.models.architecture import attention_of, max_positions, model_class, read_config, text_config
from training.models.lora_targets import lay_adapter
from training.recipe import LoraSection

_META = torch.device("meta")


@dataclass(frozen=True)
class ModelShape:
    """A base model with an adapter of one rank, without its weights."""

    name: str
    dimension: int  # d: entries of all A and B
    weights: int  # of the base; tied ones count once
    largest_factor: int  # entries of the largest A or B
    layers: int
    vocabulary: int
    max_positions: int
    lora: LoraSection
    config: Any = field(repr=False)  # Transformers' own

    @property
    def gradient_bytes(self) -> int:
        """One row's gradient in float32."""
        return 4 * self.dimension

    def build(self) -> PeftModel:
        """Build the model with its adapter on the meta device, in float32: shapes and no memory."""
        return _build(self.config, self.lora, self.name)


def read_shape(model: str, lora: LoraSection, revision: str | None = None) -> ModelShape:
    """Read a model's shape from its config: a folder, a config.json, or a hub id (only its config is fetched).

    Raises:
        RecipeError: there is no such config, or no LoRA fits the model it describes.

    """
    config = read_config(model, revision)
    adapted = _build(config, lora, model)
    factors = [weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name]
    weights = sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" not in name)
    text = text_config(config)
    return ModelShape(
        name=Path(model).parent.name if model.endswith(".json") else Path(model).name,
        dimension=sum(factors),
        weights=weights,
        largest_factor=max(factors),
        layers=int(text.num_hidden_layers),
        vocabulary=int(text.vocab_size),
        max_positions=max_positions(config),
        lora=lora,
        config=config,
    )


def _build(config: Any, lora: LoraSection, name: str) -> PeftModel:
    kind, attention = model_class(config, name), attention_of(config, name)
    try:
        with _META:
            base = kind._from_config(config, dtype=torch.float32, attn_implementation=attention)
    except Exception as error:  # as many kinds as there are architectures
        first_line = (str(error).splitlines() or [""])[0]
        raise RecipeError(
            f"Recipe, base.model: {name!r} can't be built as a language model ({type(error).__name__}: {first_line}). "
            "Use another base model."
        ) from error
    with _META:
        return lay_adapter(base, lora, name)
