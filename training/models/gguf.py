"""A base in GGUF: dequantised once into a folder that is a base as any other, named by the file's content."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bundle.digests import file_sha256
from training.errors import RecipeError
from training.models.architecture import read_config

_PACKAGE = "package:"
_SUFFIX = ".gguf"


def folder_of(name: str) -> Path | None:
    """Return the folder of the base that `name` means, if it names a GGUF file or a Python package with a base in it.

    A package (`package:NAME`) carries a folder `model/`, or one GGUF file anywhere; it is never imported.

    Raises:
        RecipeError: there is no such file or package, or it can't be read.

    """
    if name.startswith(_PACKAGE):
        return _in_package(name.removeprefix(_PACKAGE))
    path = Path(name).expanduser()
    if path.suffix.lower() != _SUFFIX:
        return None
    if not path.is_file():
        raise _refusal(f"there is no file {name!r}.")
    return _dequantised(path, str(path))


def _in_package(package: str) -> Path:
    module = package.replace("-", "_")
    found = importlib.util.find_spec(module) if module.isidentifier() else None
    roots = [Path(root) for root in (found.submodule_search_locations or [])] if found else []
    if not roots:
        raise _refusal(
            f"the Python package {package!r} is not installed. pip install {package.replace('_', '-')}"
        )
    for root in roots:
        if (root / "model" / "config.json").is_file():
            return root / "model"
    files = sorted(file for root in roots for file in root.rglob(f"*{_SUFFIX}"))
    if len(files) != 1:
        what = f"{len(files)} GGUF files" if files else "neither a folder model/ nor a GGUF file"
        raise _refusal(f"the Python package {package!r} has {what} in it. Name a file instead.")
    return _dequantised(files[0], f"the Python package {package}, {files[0].name}")


def _dequantised(file: Path, origin: str) -> Path:
    kept = _kept_folder() / f"{file.stem}-{file_sha256(file)[:12]}"
    if kept.is_dir():
        return kept
    if importlib.util.find_spec("gguf") is None:
        raise _refusal(f"to read {file.name}, Transformers needs the package gguf. pip install gguf")
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{kept.name}.", dir=kept.parent))
    try:
        _write(file, part, origin)
        with contextlib.suppress(OSError):  # another process was first, with the same content
            part.rename(kept)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return kept


def _write(file: Path, folder: Path, origin: str) -> None:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32
        )
        stated = _stated(file)
    except Exception as error:  # Transformers and gguf raise many kinds
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise _refusal(f"{file} can't be read as GGUF ({type(error).__name__}: {reason[:200]}).") from error
    config = type(model.config).from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    plain = type(model)(config).to(torch.float32)  # one that knows nothing of where its weights came from
    plain.load_state_dict(model.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    license_line = f"license: {stated['general.license']}\n" if "general.license" in stated else ""
    name = stated.get("general.name", file.stem)
    (folder / "README.md").write_text(
        f"---\n{license_line}---\n# {name}\n\nDequantised to float32 by Transformers, from {origin} "
        f"(sha256 {file_sha256(file)}).\n",
        encoding="utf-8",
    )
    read_config(str(folder))


def _stated(file: Path) -> dict[str, str]:
    """Return what the file says of itself in words."""
    from gguf import GGUFReader, GGUFValueType

    return {
        name: bytes(field.parts[field.data[0]]).decode("utf-8", "replace")
        for name, field in _fields(GGUFReader(file))
        if name.startswith("general.") and field.types == [GGUFValueType.STRING]
    }


def _fields(reader: Any) -> Iterator[tuple[str, Any]]:
    yield from reader.fields.items()


def _kept_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "gradientspace" / "bases"


def _refusal(problem: str) -> RecipeError:
    return RecipeError(f"Recipe, base.model: {problem}")
