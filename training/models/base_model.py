"""The base model: found, loaded the same way every time, identified by the hash of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from bundle.digests import weights_sha256
from bundle.errors import BundleError
from bundle.manifest import BaseRecord
from training.errors import RecipeError
from training.models.model_card import license_of
from training.recipe import BaseSection


@dataclass(frozen=True)
class BaseModel:
    """A base model on disk, and what the manifest says of it."""

    folder: Path
    record: BaseRecord

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it is trained and served in."""
        return torch.float32 if self.record.dtype == "float32" else torch.bfloat16

    @property
    def max_positions(self) -> int:
        """Tokens that the model can read at all."""
        return int(AutoConfig.from_pretrained(self.folder, trust_remote_code=False).max_position_embeddings)

    def load(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Load a fresh copy, on the accelerator if there is one; `dtype` only where it must differ."""
        model = AutoModelForCausalLM.from_pretrained(
            self.folder,
            dtype=dtype or self.dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
        return cast("PreTrainedModel", torch.nn.Module.to(model, device()))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer, with a padding token."""
        tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        if tokenizer.eos_token_id is None:
            raise RecipeError(
                f"{self.record.id}: its tokenizer has no end-of-text token, so no answer could end. "
                "Set eos_token in tokenizer_config.json."
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer


def device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def refuse_own_code(model: Path | str, name: str, revision: str | None = None) -> None:
    """Let a model through that Transformers itself can build; no code that lies beside weights is ever run.

    Raises:
        RecipeError: the model's config names code of its own (`auto_map`), without which it can't be built.

    """
    try:
        AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    except ValueError as error:
        if "custom code" in str(error):
            raise RecipeError(
                f"Recipe, base.model: {name!r} needs code of its own (auto_map in its config.json), and code of a "
                "model is never run here. Use a base model that Transformers knows by itself."
            ) from error
    except Exception:
        return  # whoever reads the config for what is in it says what is wrong


def find_base(section: BaseSection) -> BaseModel:
    """Find the base model on disk or on the hub.

    Raises:
        RecipeError: there is no such folder or hub id, or it is no model with safetensors weights.

    """
    folder = Path(section.model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(section.model, revision=section.revision))
        except Exception as error:  # the hub's client raises many kinds
            raise RecipeError(
                f"Recipe, base.model: {section.model!r} is neither a folder here nor a model that the hub gave "
                f"({type(error).__name__}). Check the path or the id."
            ) from error
    if not (folder / "config.json").is_file():
        raise RecipeError(f"Recipe, base.model: {folder} has no config.json, so it is no model folder.")
    refuse_own_code(folder, section.model)
    try:
        weights = weights_sha256(folder)
    except BundleError as error:
        raise RecipeError(f"Recipe, base.model: {error}") from error
    is_local = folder == Path(section.model)
    dtype = section.dtype
    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    record = BaseRecord(
        id=section.model,
        name=folder.resolve().name if is_local else section.model,
        revision=section.revision or (None if is_local else folder.name),
        dtype=dtype,
        weights_sha256=weights,
        license=license_of(folder),
    )
    return BaseModel(folder, record)
