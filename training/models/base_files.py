"""Is this folder a base model at all, and whole? Said in a sentence before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.errors import RecipeError

_POINTER = b"version https://git-lfs"
_TOKENIZERS = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "spiece.model",
    "tokenizer_config.json",
    "vocab.txt",
)


def check_config_file(folder: Path) -> None:
    """Check that a folder holds a config.

    Raises:
        RecipeError: it does not.

    """
    if not (folder / "config.json").is_file():
        raise _refusal(f"{folder} has no config.json, so it is no model folder.")
    _check_json(folder / "config.json")


def check_base_files(folder: Path) -> None:
    """Check that a base's folder holds a tokenizer and whole weights.

    Raises:
        RecipeError: names the first file that is not there, or not what it should be.

    """
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise _refusal(
            f"{folder} has no tokenizer (tokenizer.json). Copy it from where the model came from; rows can't be read "
            "without."
        )
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        _check_weights(path)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = set(_check_json(index).get("weight_map", {}).values())
        missing = sorted(listed - {path.name for path in files})
        if missing:
            raise _refusal(f"{folder} lacks {missing[0]}, which its {index.name} lists. Fetch it again.")


def _check_json(path: Path) -> dict[str, Any]:
    _check_no_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refusal(f"{path} can't be read as JSON ({error}). Fetch it again.") from error
    if not isinstance(content, dict):
        raise _refusal(f"{path} is not a JSON object. Fetch it again.")
    return content


def _check_weights(path: Path) -> None:
    """Read the header alone: it says where the last tensor ends."""
    _check_no_pointer(path)
    size = path.stat().st_size
    cut = _refusal(f"{path} is not whole: it has {size:,} bytes, and says it has more. Fetch it again.")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise cut
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _refusal(
                f"{path} is no safetensors file ({type(error).__name__}). Fetch it again."
            ) from error
    if 8 + length + max(ends, default=0) > size:
        raise cut


def _check_no_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise _refusal(
                f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder, or fetch it with "
                "`hf download`."
            )


def _refusal(problem: str) -> RecipeError:
    return RecipeError(f"Recipe, base.model: {problem}")
