"""What a base model's config alone says: the length d of a row's gradient, and how many weights there are.

Nothing is estimated: the model is built on PyTorch's meta device, which has shapes and no memory, and PEFT lays
its adapter over it as it does in training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from training.errors import RecipeError
from training.models.base_model import refuse_own_code

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
    rank: int
    config: Any = field(repr=False)  # Transformers' own

    @property
    def gradient_bytes(self) -> int:
        """One row's gradient in float32."""
        return 4 * self.dimension

    def build(self) -> PeftModel:
        """Build the model with its adapter on the meta device, in float32: shapes and no memory."""
        return _build(self.config, self.rank, self.name)


def read_shape(model: str, rank: int, revision: str | None = None) -> ModelShape:
    """Read a model's shape from its config: a folder, a config.json, or a hub id (only its config is fetched).

    Raises:
        RecipeError: there is no such config, or no LoRA fits the model it describes.

    """
    config = _read_config(model, revision)
    adapted = _build(config, rank, model)
    lora = [weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name]
    weights = sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" not in name)
    text = config.get_text_config()
    return ModelShape(
        name=Path(model).parent.name if model.endswith(".json") else Path(model).name,
        dimension=sum(lora),
        weights=weights,
        largest_factor=max(lora),
        layers=int(text.num_hidden_layers),
        vocabulary=int(text.vocab_size),
        max_positions=int(getattr(text, "max_position_embeddings", 1 << 20)),
        rank=rank,
        config=config,
    )


def _read_config(model: str, revision: str | None) -> Any:
    refuse_own_code(model, model, revision)
    try:
        return AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    except Exception as error:  # Transformers and the hub's client raise many kinds
        raise RecipeError(
            f"Recipe, base.model: no model config was found for {model!r} ({type(error).__name__}). Give a model's "
            "folder, a config.json, or a hub id; only the config is read, no weights."
        ) from error


def _build(config: Any, rank: int, name: str) -> PeftModel:
    # The target rule of training.models.finetune.new_adapter; alpha and dropout change no shape.
    lora = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM", bias="none")
    try:
        with _META:
            base = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
            return cast("PeftModel", get_peft_model(base, lora))
    except Exception as error:  # as many kinds as there are architectures
        first_line = (str(error).splitlines() or [""])[0]
        raise RecipeError(
            f"Recipe, base.model: {name!r} can't be built as a language model with LoRA on all its linear layers "
            f"({type(error).__name__}: {first_line}). Use another base model."
        ) from error
