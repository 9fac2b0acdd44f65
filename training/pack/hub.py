"""Adapters that a model hub keeps: fetched at one commit, and known by it."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from bundle.hub_name import hub_name
from training.errors import PackError

_FILES = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "chat_template.jinja"]


def adapter_folder(given: str) -> Path:
    """Return an adapter's folder: as it was given, or of `ID@REVISION` the hub's copy of that commit.

    Raises:
        PackError: the hub does not give it.

    """
    name = hub_name(given)
    if name is None:
        return Path(given)
    try:
        return Path(snapshot_download(name.id, revision=name.revision, allow_patterns=_FILES))
    except Exception as error:  # the hub's client raises what its transport raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PackError(
            f"--adapter {given}: there is no such folder, and the hub does not give it ({reason}). Give a folder, or "
            "ID@REVISION."
        ) from error


def origin_of(folder: Path) -> str:
    """Return what the bundle says of where an adapter came from: a folder's name, or the hub's id and commit."""
    repository = folder.parent.parent
    if folder.parent.name == "snapshots" and repository.name.startswith("models--"):
        return f"{repository.name.removeprefix('models--').replace('--', '/', 1)}@{folder.name}"
    return folder.name
