"""Refuse a base model that is not the one the bundle was trained on."""

from __future__ import annotations

from pathlib import Path

from bundle.adapter import tensor_shapes
from bundle.digests import ADAPTER_WEIGHTS, weight_files, weights_sha256
from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE
from bundle.read import Bundle

PEFT_PREFIX = "base_model.model."
_LANGUAGE, _BLOCKS = "language_model", ".layers."
_REMEDY = "Give the base model that it was trained on"


def check_base(bundle: Bundle, base_folder: Path) -> None:
    """Check tensor shapes first (they say what is wrong), then the hash of the weights.

    vLLM itself loads adapters of a wrong base without a word and answers 200, so this is the only guard.

    Raises:
        BundleError: an adapter's shape does not fit, or the weights are not those of training.

    """
    check_shapes(bundle, base_folder)
    found, expected = weights_sha256(base_folder), bundle.manifest.base.weights_sha256
    if found != expected:
        raise BundleError(
            MANIFEST_FILE,
            "base.weights_sha256",
            f"the weights in {base_folder} are others than those of training "
            f"({found[:12]} here, {expected[:12]} in the manifest)",
            f"Give the base model {bundle.manifest.base.id!r} that the bundle was trained on",
        )


def check_shapes(bundle: Bundle, base_folder: Path) -> None:
    """Check that every adapter has the shapes of the base's layers.

    Raises:
        BundleError: names the first tensor that has not.

    """
    shapes = base_shapes(base_folder)
    for adapter in bundle.manifest.adapters:
        file = f"{adapter.folder}/{ADAPTER_WEIGHTS}"
        check_adapter_shapes(bundle.folder / file, file, shapes, base_folder)


def base_shapes(base_folder: Path) -> dict[str, list[int]]:
    """Return the shape of every weight of a base model by name.

    Raises:
        BundleError: it has no safetensors file.

    """
    shapes: dict[str, list[int]] = {}
    for path in weight_files(base_folder):
        shapes |= tensor_shapes(path)
    return shapes


def check_adapter_shapes(weights: Path, file: str, base: dict[str, list[int]], base_folder: Path) -> None:
    """Check that every LoRA factor in `weights` fits the weight of the base that it is named after.

    `file` is what an error calls it, `base` what `base_shapes(base_folder)` returned.

    Raises:
        BundleError: the base has no such weight, or one of another shape.

    """
    for name, shape in tensor_shapes(weights).items():
        module, _, side = name.removeprefix(PEFT_PREFIX).rpartition(".lora_")
        weight = _stored_name(f"{module}.weight", base)
        if weight is None:
            raise BundleError(
                file, name, f"the base in {base_folder} has no weight '{module}.weight'", _REMEDY
            )
        out_features, in_features = base[weight]  # [out, in]
        fits = shape[1] == in_features if side.startswith("A") else shape[0] == out_features
        if not fits:  # A: [r, in], B: [out, r]
            raise BundleError(
                file,
                name,
                f"its shape {shape} does not fit {weight!r} of shape {[out_features, in_features]} "
                f"in {base_folder}",
                _REMEDY,
            )


def _stored_name(weight: str, base: dict[str, list[int]]) -> str | None:
    """Return what a base calls a weight on the disk, None if it has none.

    A model that also sees or hears has its language model's blocks on the disk under another prefix than in memory
    (`language_model.model.layers.` and `model.language_model.layers.`), and other blocks with the same names.
    """
    if weight in base:
        return weight
    block = weight[weight.find(_BLOCKS) :] if _BLOCKS in weight else weight
    same = [
        name for name in base if name.endswith(block) and _LANGUAGE in name.removesuffix(block).split(".")
    ]
    return same[0] if len(same) == 1 else None
