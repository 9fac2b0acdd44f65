"""A LoRA adapter that somebody trained already: read, and refused by file and field if it can't be served."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from bundle.adapter import largest_rank
from bundle.base_check import PEFT_PREFIX, check_adapter_shapes
from bundle.digests import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from bundle.errors import BundleError
from training.errors import PackError

LARGEST_RANK = 512  # anchor:vllm, the largest of its MaxLoRARanks
# anchor:vllm: initialisations that leave the base as it is. The others (PiSSA, OLoRA, CorDA, LoftQ) change it
# whenever PEFT loads the adapter, and the engine does not.
_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
_PLAIN = "Only plain LoRA can be served; train it again as such, or merge it into the base."


@dataclass(frozen=True)
class GivenAdapter:
    """An adapter that passed every check."""

    name: str
    folder: Path
    base: str | None
    """The base model that it says it was trained on."""
    acts_like: str
    """Digest of all that changes answers: two adapters of one digest are the same adapter."""


def read_adapter(name: str, folder: Path, base: dict[str, list[int]], base_folder: Path) -> GivenAdapter:
    """Check an adapter's files against what the engine serves and against the base's shapes.

    `base` is what `bundle.base_check.base_shapes(base_folder)` returned.

    Raises:
        PackError: names the first file and field that is wrong.

    """
    config = _config(folder)
    _refuse_other_kinds(folder / ADAPTER_CONFIG, config)
    weights = folder / ADAPTER_WEIGHTS
    tensors = _tensors(weights)
    _check_factors(weights, tensors)
    try:
        check_adapter_shapes(weights, str(weights), base, base_folder)
    except BundleError as error:
        raise PackError(f"{error}.") from error
    _check_rank(folder, config)
    scaling = {
        key: config.get(key) for key in ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")
    }
    digest = hashlib.sha256(json.dumps(scaling, sort_keys=True).encode())
    for tensor in sorted(tensors):
        digest.update(tensor.encode() + tensors[tensor].float().numpy().tobytes())
    stated = config.get("base_model_name_or_path")
    return GivenAdapter(name, folder, stated if isinstance(stated, str) else None, digest.hexdigest())


def _config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    if not folder.is_dir():
        raise PackError(
            f"{folder}: there is no such folder. Give the folder that PEFT's save_pretrained wrote."
        )
    if not path.is_file():
        raise PackError(
            f"{folder}: it has no {ADAPTER_CONFIG}. Give the folder that PEFT's save_pretrained wrote."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackError(f"{path}: it can't be read as JSON ({error}). Save the adapter again.") from error
    if not isinstance(config, dict):
        raise PackError(f"{path}: it is not a JSON object. Save the adapter again.")
    return config


def _refuse_other_kinds(path: Path, config: dict[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise PackError(f"{path}, field 'peft_type': it is {config.get('peft_type')!r}, not 'LORA'. {_PLAIN}")
    fields = (
        *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters"),
        *("layer_replication", "alora_invocation_tokens", "arrow_config", "use_bdlora", "use_qalora"),
    )
    for field in fields:
        if config.get(field):
            raise PackError(f"{path}, field {field!r}: it is {config[field]!r}. {_PLAIN}")
    if config.get("bias", "none") != "none":
        raise PackError(f"{path}, field 'bias': it is {config['bias']!r}, not 'none'. {_PLAIN}")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _INITS:
        raise PackError(
            f"{path}, field 'init_lora_weights': {init!r} changes the base model too. Convert the adapter with PEFT's "
            "path_initial_model_for_weight_conversion."
        )
    for field in ("r", "lora_alpha"):
        if not isinstance(config.get(field), int | float) or config[field] <= 0:
            raise PackError(
                f"{path}, field {field!r}: it is {config.get(field)!r}, not a number above 0. Save the adapter again."
            )


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        other = next((file.name for file in path.parent.glob("adapter_model.*")), "no weights")
        raise PackError(
            f"{path.parent}: it has {other} and no {ADAPTER_WEIGHTS}. Save it with safe_serialization=True; pickles "
            "are not read."
        )
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise PackError(f"{path}: it can't be read ({error}). Save the adapter again.") from error


def _check_factors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if not tensors:
        raise PackError(f"{path}: there is no tensor in it. Save the adapter again.")
    for name, tensor in tensors.items():
        module, _, side = name.rpartition(".lora_")
        if not name.startswith(PEFT_PREFIX) or side not in ("A.weight", "B.weight") or tensor.ndim != 2:
            raise PackError(
                f"{path}, tensor {name!r}: it is no A or B of a LoRA on a linear layer, as PEFT names them. {_PLAIN}"
            )
        if not any(part.isdigit() for part in module.split(".")):  # a block has a number, the head has none
            raise PackError(
                f"{path}, tensor {name!r}: {module.removeprefix(PEFT_PREFIX)} lies outside the model's blocks, and an "
                "adapter of the head or the embeddings can end the engine. Train one of the blocks' linear layers."
            )
        other = tensors.get(f"{module}.lora_{'B' if side[0] == 'A' else 'A'}.weight")
        if other is None:
            raise PackError(f"{path}, tensor {name!r}: its other half is missing. Save the adapter again.")
        if side[0] == "A" and tensor.shape[0] != other.shape[1]:  # A: [r, in], B: [out, r]
            raise PackError(
                f"{path}, tensor {name!r}: its rank is {tensor.shape[0]}, its other half's {other.shape[1]}. Save the "
                "adapter again."
            )
        if not torch.isfinite(tensor).all():
            raise PackError(f"{path}, tensor {name!r}: not every number in it is finite. Train it again.")
    if not any(tensor.any() for name, tensor in tensors.items() if name.endswith(".lora_B.weight")):
        raise PackError(
            f"{path}: every B is zero, so the adapter does nothing. Give a trained one, or leave it out."
        )


def _check_rank(folder: Path, config: dict[str, Any]) -> None:
    rank, tensor = largest_rank(folder / ADAPTER_WEIGHTS)
    if rank > LARGEST_RANK:
        raise PackError(
            f"{folder / ADAPTER_WEIGHTS}, tensor {tensor!r}: its rank {rank} is above vLLM's largest, {LARGEST_RANK}. "
            "Train it with a smaller one."
        )
    patterns = config.get("rank_pattern") or {}
    if not isinstance(patterns, dict) or not all(isinstance(value, int) for value in patterns.values()):
        raise PackError(
            f"{folder / ADAPTER_CONFIG}, field 'rank_pattern': it does not give ranks by module. Save it again."
        )
    stated = max([config["r"], *patterns.values()])
    if stated != rank:
        raise PackError(
            f"{folder / ADAPTER_CONFIG}, field 'r': it says the largest rank is {stated}, and the weights' is {rank}. "
            "Save the adapter again."
        )
