"""Open a bundle: nothing is handed out before every byte of it was verified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from bundle.adapter import largest_rank
from bundle.digests import ADAPTER_WEIGHTS, adapter_digest, file_sha256
from bundle.errors import BundleError
from bundle.fingerprints import FINGERPRINTS_FILE, Fingerprints
from bundle.finite import not_finite
from bundle.manifest import (
    ADAPTER_FILES,
    CHAT_TEMPLATE_FILE,
    FORMAT_VERSION,
    MANIFEST_FILE,
    ROUTER_FOLDER,
    Manifest,
)

ROUTER_HEAD = f"{ROUTER_FOLDER}/head.safetensors"
ROUTER_CASCADE = f"{ROUTER_FOLDER}/cascade.safetensors"
ROUTER_FAMILIAR = f"{ROUTER_FOLDER}/familiar.safetensors"
ROUTER_MODEL = f"{ROUTER_FOLDER}/model.onnx"
HUB_FILES = frozenset({".gitattributes"})
"""What a model hub puts into every repository; nothing here reads it."""
_HUB_DOWNLOADS = ".cache/huggingface"
_UNREADABLE = (OSError, SafetensorError, ValueError, TypeError, KeyError, IndexError, RecursionError)
"""What reading a damaged file can raise: cut off, of another form, nested without end, tensors without dimensions."""
_ROUTER_NUMBERS = (ROUTER_HEAD, ROUTER_CASCADE, ROUTER_FAMILIAR)
_TRAIN_AGAIN = "Copy the bundle again from where it was made, or train it again"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: its folder, its manifest, its fingerprints."""

    folder: Path
    manifest: Manifest
    fingerprints: Fingerprints

    @property
    def digest(self) -> str:
        """Twelve hex digits that change with anything in the bundle."""
        return self.manifest.digest

    @property
    def chat_template(self) -> Path:
        """The chat template that training rendered with."""
        return self.folder / CHAT_TEMPLATE_FILE

    @property
    def router_folder(self) -> Path:
        """The folder with the router's model, head and tokenizer."""
        return self.folder / ROUTER_FOLDER

    def expert_folder(self, place: int) -> Path:
        """Return the PEFT folder of the expert at this place among the bundle's."""
        return self.folder / self.manifest.experts[place].folder

    @property
    def fallback_folder(self) -> Path:
        """The PEFT folder of the fallback adapter."""
        return self.folder / self.manifest.fallback.folder


def read_bundle(path: Path | str) -> Bundle:
    """Verify a bundle and open it.

    `path` is the bundle's folder, or the run folder that training wrote it into.

    Raises:
        BundleError: anything is missing, changed, added, of an unknown version, or contradicts itself.

    """
    folder = _bundle_folder(Path(path))
    manifest = _read_manifest(folder)
    _verify_files(folder, manifest)
    _verify_adapters(folder, manifest)
    _verify_router_labels(folder, manifest)
    _verify_finite(folder, manifest)
    _verify_template(folder)
    return Bundle(folder, manifest, _read_fingerprints(folder, manifest))


def _bundle_folder(path: Path) -> Path:
    if path.is_file():
        raise BundleError(
            str(path), "", "it is a file, a bundle is a folder", "Point to the folder it lies in"
        )
    for folder in (path, path / "bundle"):
        if (folder / MANIFEST_FILE).is_file():
            return folder
    what = "there is no bundle.json in it" if path.is_dir() else "it does not exist"
    raise BundleError(str(path), "", what, "Point to the folder that `gradientspace train` wrote")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(MANIFEST_FILE, "", f"it can't be read as JSON ({error})", _TRAIN_AGAIN) from error
    if not isinstance(raw, dict):
        raise BundleError(MANIFEST_FILE, "", "it is not a JSON object", _TRAIN_AGAIN)
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            MANIFEST_FILE,
            "format_version",
            f"this software reads version {FORMAT_VERSION}, the bundle has {version!r}",
            "Use the version of gradientspace that wrote the bundle, or train it again with this one",
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = (
            ".".join(str(part) for part in first["loc"]) or str(first["msg"]).split(":")[0].split(", ")[-1]
        )
        raise BundleError(MANIFEST_FILE, field, str(first["msg"]), _TRAIN_AGAIN) from error
    if not manifest.seal_holds():
        raise BundleError(MANIFEST_FILE, "seal", "the manifest was changed after it was sealed", _TRAIN_AGAIN)
    return manifest


def _verify_files(folder: Path, manifest: Manifest) -> None:
    present = set()
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name in HUB_FILES or name.startswith(f"{_HUB_DOWNLOADS}/"):
            continue  # `hf download` leaves them beside a bundle
        if path.is_symlink():
            # What a link points to is outside the bundle, and not what was verified a moment later.
            raise BundleError(name, "files", "a bundle holds no links", "Replace it by the file itself")
        if path.is_file():
            present.add(name)
    present.discard(MANIFEST_FILE)
    for name in _needed(manifest):
        if name not in manifest.files:
            raise BundleError(
                MANIFEST_FILE,
                f"files.{name}",
                "the manifest does not list this file, and nothing works without it",
                _TRAIN_AGAIN,
            )
    for name, expected in manifest.files.items():
        if name not in present:
            raise BundleError(name, f"files.{name}", "the file is missing", _TRAIN_AGAIN)
        try:
            found = file_sha256(folder / name)
        except OSError as error:
            raise BundleError(
                name, f"files.{name}", f"it can't be read ({error.strerror})", "Let this user read it"
            ) from error
        if found != expected:
            raise BundleError(
                name,
                f"files.{name}",
                f"its bytes changed (sha256 {found[:12]}, the manifest says {expected[:12]})",
                _TRAIN_AGAIN,
            )
    for name in sorted(present - set(manifest.files)):
        raise BundleError(name, "files", "the manifest does not know this file", "Remove it from the bundle")


def _needed(manifest: Manifest) -> list[str]:
    adapters = [f"{record.folder}/{name}" for record in manifest.adapters for name in ADAPTER_FILES]
    cascade = [ROUTER_CASCADE] if manifest.router.cascade else []
    familiar = [ROUTER_FAMILIAR] if manifest.router.unfamiliar else []
    return [CHAT_TEMPLATE_FILE, FINGERPRINTS_FILE, ROUTER_HEAD, *cascade, *familiar, *adapters]


def _verify_adapters(folder: Path, manifest: Manifest) -> None:
    for record in manifest.adapters:
        if adapter_digest(folder / record.folder) != record.digest:
            raise BundleError(
                record.folder,
                "digest",
                "this folder holds another adapter than the manifest says (were experts swapped?)",
                _TRAIN_AGAIN,
            )
        _verify_rank(folder, f"{record.folder}/{ADAPTER_WEIGHTS}", (record.lora or manifest.lora).rank)


def _verify_rank(folder: Path, file: str, rank: int) -> None:
    try:
        largest, name = largest_rank(folder / file)
    except _UNREADABLE as error:
        raise BundleError(file, "", f"it can't be read ({error})", _TRAIN_AGAIN) from error
    if largest != rank:
        raise BundleError(
            file, name, f"its rank is {largest}, the manifest's lora.rank is {rank}", _TRAIN_AGAIN
        )


def _verify_router_labels(folder: Path, manifest: Manifest) -> None:
    try:
        with safe_open(folder / ROUTER_HEAD, framework="np") as head:
            labels = json.loads((head.metadata() or {}).get("labels", "[]"))
            rows, hidden = head.get_slice("W").get_shape()
    except _UNREADABLE as error:
        raise BundleError(ROUTER_HEAD, "W", f"it can't be read ({error})", _TRAIN_AGAIN) from error
    if hidden != manifest.router.hidden:
        raise BundleError(
            ROUTER_HEAD,
            "W",
            f"it reads {hidden} features, the manifest's router.hidden is {manifest.router.hidden}",
            _TRAIN_AGAIN,
        )
    if tuple(labels) != manifest.label_order or rows != len(manifest.label_order):
        raise BundleError(
            ROUTER_HEAD,
            "labels",
            f"the router was trained for {labels} ({rows} outputs), the bundle's labels are "
            f"{list(manifest.label_order)}",
            _TRAIN_AGAIN,
        )


def _verify_finite(folder: Path, manifest: Manifest) -> None:
    adapters = [f"{record.folder}/{ADAPTER_WEIGHTS}" for record in manifest.adapters]
    for file in dict.fromkeys((*adapters, *(name for name in _ROUTER_NUMBERS if name in manifest.files))):
        try:
            tensor = not_finite(folder / file)
        except (*_UNREADABLE, AttributeError) as error:
            raise BundleError(file, "", f"it can't be read ({error})", _TRAIN_AGAIN) from error
        if tensor is not None:
            raise BundleError(file, tensor, "not every number in it is finite", "Train it again")


def _verify_template(folder: Path) -> None:
    try:
        (folder / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(CHAT_TEMPLATE_FILE, "", f"it can't be read ({error})", _TRAIN_AGAIN) from error


def _read_fingerprints(folder: Path, manifest: Manifest) -> Fingerprints:
    try:
        fingerprints = Fingerprints.model_validate_json((folder / FINGERPRINTS_FILE).read_bytes())
    except OSError as error:
        raise BundleError(
            FINGERPRINTS_FILE, "", f"it can't be read ({error.strerror})", "Let this user read it"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BundleError(FINGERPRINTS_FILE, field, str(first["msg"]), _TRAIN_AGAIN) from error
    names = {adapter.name for adapter in manifest.adapters}
    if set(fingerprints.adapters) != names:
        raise BundleError(
            FINGERPRINTS_FILE,
            "adapters",
            f"it has fingerprints of {sorted(fingerprints.adapters)}, the bundle's adapters are {sorted(names)}",
            _TRAIN_AGAIN,
        )
    return fingerprints
