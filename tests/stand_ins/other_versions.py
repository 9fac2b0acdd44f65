"""Other bundles made from a good one: a next version, and damage that no checksum shows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bundle.digests import ADAPTER_WEIGHTS, adapter_digest, file_sha256, weights_sha256
from bundle.fingerprints import Fingerprints
from bundle.manifest import MANIFEST_FILE, AnswerEnd, Manifest
from bundle.read import Bundle, read_bundle
from training.bundling.fingerprints import make_fingerprints
from training.models.base_model import BaseModel, find_base
from training.recipe import BaseSection

Weights = dict[str, torch.Tensor]
MARK = "Be kind."


def copy_of(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, folder))


def seal(folder: Path, change: Callable[[dict[str, Any]], None] = lambda content: None) -> Bundle:
    """Change bundle.json, take every digest and checksum anew, and seal it."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    change(content)
    for record in (*content["experts"], content["fallback"]):
        record["digest"] = adapter_digest(folder / record["folder"])
    content["files"] = {name: file_sha256(folder / name) for name in content["files"]}
    sealed = Manifest.model_validate(content).sealed()
    (folder / MANIFEST_FILE).write_text(sealed.model_dump_json())
    return read_bundle(folder)


EOS = AnswerEnd(token_ids=(2,))  # the demo's, for a bundle that is older than the field


def change_weights(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    weights = load_file(folder / ADAPTER_WEIGHTS)
    save_file({name: change(name, tensor) for name, tensor in weights.items()}, folder / ADAPTER_WEIGHTS)


def base_of(bundle: Bundle, folder: Path) -> BaseModel:
    return find_base(BaseSection(model=str(folder), dtype=bundle.manifest.base.dtype))


def recorded(bundle: Bundle, base: BaseModel) -> Fingerprints:
    template = bundle.chat_template.read_text()
    folders = {record.name: bundle.folder / record.folder for record in bundle.manifest.adapters}
    return make_fingerprints(base, template, folders, bundle.manifest.answer_end or EOS)


def next_version(bundle: Bundle, base: Path, folder: Path) -> Bundle:
    """Train on, so to speak: expert-0 is weaker, the template says something more; the rest is as it was."""
    copy_of(bundle, folder)
    change_weights(
        folder / "experts" / "expert-0", lambda name, tensor: 0.5 * tensor if ".lora_B." in name else tensor
    )
    return with_template_mark(folder, base, MARK)


def with_template_mark(folder: Path, base: Path, mark: str) -> Bundle:
    """Change the template of the bundle in this folder: every prompt ends with the mark."""
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + f"{{% if add_generation_prompt %}}{mark}{{% endif %}}")
    changed = seal(folder)
    recorded(changed, base_of(changed, base)).write(folder)
    return seal(folder)


def with_chat_template(bundle: Bundle, folder: Path, template: str) -> Bundle:
    (copy_of(bundle, folder) / "chat_template.jinja").write_text(template)
    return seal(folder)


def with_swapped_experts(bundle: Bundle, folder: Path) -> Bundle:
    experts = copy_of(bundle, folder) / "experts"
    (experts / "expert-0").rename(experts / "aside")
    (experts / "expert-1").rename(experts / "expert-0")
    (experts / "aside").rename(experts / "expert-1")
    return seal(folder)


def with_a_zeroed_adapter(bundle: Bundle, folder: Path) -> Bundle:
    copy_of(bundle, folder)
    change_weights(folder / "experts" / "expert-1", lambda name, tensor: torch.zeros_like(tensor))
    return seal(folder)


def other_base(base: Path, folder: Path) -> Path:
    """Another base of equal shape: the same, trained on a little."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(0)

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(tensor.shape, generator=generator) * tensor.float().std()
        return (tensor.float() + 0.1 * noise).to(tensor.dtype) if tensor.dim() == 2 else tensor

    for path in folder.glob("*.safetensors"):
        save_file({name: changed(tensor) for name, tensor in load_file(path).items()}, path)
    return folder


def claiming(bundle: Bundle, base: Path, folder: Path) -> Bundle:
    """The bundle, with a manifest that says this base's weights are the right ones."""
    copy_of(bundle, folder)
    return seal(folder, lambda content: content["base"].update(weights_sha256=weights_sha256(base)))


def recorded_on(bundle: Bundle, base: Path, folder: Path) -> Bundle:
    """The bundle, with the fingerprints of another base of equal shape: to an engine, the mirror image."""
    copy_of(bundle, folder)
    recorded(bundle, base_of(bundle, base)).write(folder)
    return seal(folder)


def make_current(link: Path, folder: Path) -> None:
    """Let the link name another bundle from now on, with no moment in between."""
    aside = link.with_name(f"{link.name}.new")
    aside.symlink_to(folder)
    aside.replace(link)
