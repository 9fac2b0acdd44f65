"""Digests: of a file, of an adapter, of a model's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from bundle.errors import BundleError
from bundle.manifest import ADAPTER_FILES

ADAPTER_CONFIG, ADAPTER_WEIGHTS = ADAPTER_FILES


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def adapter_digest(folder: Path) -> str:
    """Digest of a PEFT adapter: its config and its weights, nothing else that may lie beside them."""
    both = "".join(file_sha256(folder / name) for name in ADAPTER_FILES)
    return hashlib.sha256(both.encode()).hexdigest()


def weight_files(model_folder: Path) -> list[Path]:
    """Return the safetensors files of a model folder, sorted by name.

    Raises:
        BundleError: there are none (only safetensors are read, never pickles).

    """
    files = sorted(model_folder.glob("*.safetensors"))
    if not files:
        raise BundleError(
            str(model_folder),
            "",
            "it has no *.safetensors file",
            "Point to a model folder with safetensors weights",
        )
    return files


def weights_sha256(model_folder: Path) -> str:
    """Digest of a model's weights: of the digests of its safetensors files in name order."""
    digests = "".join(file_sha256(path) for path in weight_files(model_folder))
    return hashlib.sha256(digests.encode()).hexdigest()
