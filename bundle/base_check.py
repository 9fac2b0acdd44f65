"""Refuse a base model that is not the one the bundle was trained on."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open

from bundle.digests import ADAPTER_WEIGHTS, weight_files, weights_sha256
from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE
from bundle.read import Bundle

_PEFT_PREFIX = "base_model.model."


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
    weights = _shapes_of_base(base_folder)
    for adapter in bundle.manifest.adapters:
        _check_adapter_shapes(bundle.folder, f"{adapter.folder}/{ADAPTER_WEIGHTS}", weights, base_folder)


def _shapes_of_base(base_folder: Path) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in weight_files(base_folder):
        with safe_open(path, framework="np") as tensors:
            shapes |= {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _check_adapter_shapes(
    bundle_folder: Path, file: str, base_shapes: dict[str, list[int]], base_folder: Path
) -> None:
    with safe_open(bundle_folder / file, framework="np") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
            module, _, side = name.removeprefix(_PEFT_PREFIX).rpartition(".lora_")
            weight = f"{module}.weight"
            if weight not in base_shapes:
                raise BundleError(
                    file, name, f"the base in {base_folder} has no weight {weight!r}", _remedy()
                )
            out_features, in_features = base_shapes[weight]  # [out, in]
            shape = list(tensors.get_slice(name).get_shape())  # A: [r, in], B: [out, r]
            fits = shape[1] == in_features if side.startswith("A") else shape[0] == out_features
            if not fits:
                raise BundleError(
                    file,
                    name,
                    f"its shape {shape} does not fit {weight!r} of shape {[out_features, in_features]} "
                    f"in {base_folder}",
                    _remedy(),
                )


def _remedy() -> str:
    return "Give the base model that the bundle was trained on"
