"""Find the base model's folder, and refuse a wrong base before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from bundle.base_check import check_base
from bundle.read import Bundle
from service.errors import UsageError

_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]


def checked_base(bundle: Bundle, override: str | None) -> Path:
    """Return the folder of the base model, its tensor shapes and weights checked against the bundle.

    `override` (a folder or a hub id) stands in for the manifest's id.

    Raises:
        UsageError: it can't be found.
        BundleError: it is not the base that the bundle was trained on.

    """
    folder = _base_folder(bundle, override)
    check_base(bundle, folder)
    return folder


def _base_folder(bundle: Bundle, override: str | None) -> Path:
    wanted = override or bundle.manifest.base.id
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return folder.resolve()
    if folder.is_absolute() or wanted.startswith((".", "~")):
        raise UsageError(_missing(wanted, "there is no such folder", override))
    return _from_hub(wanted, bundle.manifest.base.revision, override)


def _from_hub(hub_id: str, revision: str | None, override: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # the hub's client raises what its transport raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            _missing(hub_id, f"no folder, and not found on the hub: {reason}", override)
        ) from error


def _missing(wanted: str, why: str, override: str | None) -> str:
    whose = "the base model given with --base-model" if override else "the bundle's base model"
    return f"{wanted}: {whose} can't be opened ({why}). Give its folder or hub id with --base-model"
