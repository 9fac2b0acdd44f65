"""The base model: found, loaded the same way every time, identified by the hash of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from bundle.digests import weights_sha256
from bundle.errors import BundleError
from bundle.manifest import BaseRecord
from training.errors import RecipeError
from training.models.architecture import attention_of, max_positions, model_class, read_config
from training.models.base_files import check_base_files, check_config_file
from training.models.gguf import folder_of
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
    def config(self) -> Any:
        """Transformers' config of it."""
        return read_config(str(self.folder))

    @property
    def max_positions(self) -> int:
        """Tokens that the model can read at all."""
        return max_positions(self.config)

    def load(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Load a fresh copy, on the accelerator if there is one; `dtype` only where it must differ."""
        config = self.config
        model = model_class(config, self.record.id).from_pretrained(
            self.folder,
            dtype=dtype or self.dtype,
            attn_implementation=attention_of(config, self.record.id),
            use_safetensors=True,
        )
        return cast("PreTrainedModel", torch.nn.Module.to(model, device()))

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Load its tokenizer, with a padding token."""
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)
        except Exception as error:  # Transformers and tokenizers raise many kinds
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise RecipeError(
                f"{self.record.id}: its tokenizer can't be loaded ({type(error).__name__}: {reason[:200]}). Copy the "
                "tokenizer's files again from where the model came from."
            ) from error
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


def find_base(section: BaseSection) -> BaseModel:
    """Find the base model on disk or on the hub.

    Raises:
        RecipeError: there is no such folder or hub id, or it is no model with safetensors weights.

    """
    made = folder_of(section.model)
    folder = made or Path(section.model)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(section.model, revision=section.revision))
        except Exception as error:  # the hub's client raises many kinds
            raise RecipeError(
                f"Recipe, base.model: {section.model!r} is neither a folder here nor a model that the hub gave "
                f"({type(error).__name__}). Check the path or the id."
            ) from error
    check_config_file(folder)
    _check_config(read_config(str(folder)), section.model)
    check_base_files(folder)
    try:
        weights = weights_sha256(folder)
    except BundleError as error:
        raise RecipeError(f"Recipe, base.model: {error}") from error
    is_local = made is not None or folder == Path(section.model)
    dtype = section.dtype
    if dtype == "auto":
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
    record = BaseRecord(
        id=section.model if made is None else str(made.resolve()),
        name=folder.resolve().name if is_local else section.model,
        revision=section.revision or (None if is_local else folder.name),
        dtype=dtype,
        weights_sha256=weights,
        license=license_of(folder),
    )
    return BaseModel(folder, record)


def _check_config(config: Any, name: str) -> None:
    """Refuse what can't be trained on, before its weights are read."""
    model_class(config, name)
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        stated = quantised if isinstance(quantised, dict) else quantised.to_dict()
        raise RecipeError(
            f"Recipe, base.model: {name!r} is quantised ({stated.get('quant_method', 'in an unknown way')}), and "
            "Stage II needs its weights in float32. Give the model that it was made from, or one in GGUF."
        )
