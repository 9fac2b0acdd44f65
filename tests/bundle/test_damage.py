"""Damage of every kind is refused, by name of file and field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from bundle.digests import adapter_digest
from bundle.errors import BundleError
from bundle.finite import not_finite
from bundle.read import read_bundle
from tests.stand_ins.small_bundle import edit_manifest, reseal

ADAPTER = "experts/expert-1/adapter_model.safetensors"
HEAD = "router/head.safetensors"


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    return str(caught.value)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_the_undamaged_bundle_opens_from_its_folder_and_from_the_run(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    assert bundle.manifest.label_order == ("expert-0", "expert-1", "expert-2")
    assert read_bundle(bundle_folder.parent).digest == bundle.digest


@pytest.mark.parametrize(
    "file", [ADAPTER, HEAD, "chat_template.jinja", "experts/expert-2/adapter_config.json"]
)
def test_a_missing_file(bundle_folder: Path, file: str) -> None:
    (bundle_folder / file).unlink()
    message = refusal(bundle_folder)
    assert message.startswith(f"{file}, field 'files.{file}'")
    assert "missing" in message


def test_a_missing_manifest(bundle_folder: Path) -> None:
    (bundle_folder / "bundle.json").unlink()
    assert str(bundle_folder) in refusal(bundle_folder)
    assert "bundle.json" in refusal(bundle_folder)


@pytest.mark.parametrize("file", [ADAPTER, HEAD, "fallback/adapter_model.safetensors", "router/model.onnx"])
def test_a_changed_byte(bundle_folder: Path, file: str) -> None:
    flip_a_byte(bundle_folder / file)
    message = refusal(bundle_folder)
    assert message.startswith(f"{file}, field 'files.{file}'")
    assert "bytes changed" in message


def test_a_changed_value_in_the_manifest(bundle_folder: Path) -> None:
    edit_manifest(bundle_folder, lambda content: content["calibration"].update(temperature=2.5))
    assert refusal(bundle_folder).startswith("bundle.json, field 'seal'")


def test_a_manifest_that_is_no_json(bundle_folder: Path) -> None:
    path = bundle_folder / "bundle.json"
    path.write_text(path.read_text()[:-20])
    assert refusal(bundle_folder).startswith("bundle.json: it can't be read as JSON")


def swap_experts(folder: Path) -> None:
    experts = folder / "experts"
    (experts / "expert-0").rename(experts / "aside")
    (experts / "expert-1").rename(experts / "expert-0")
    (experts / "aside").rename(experts / "expert-1")


def test_swapped_expert_folders(bundle_folder: Path) -> None:
    swap_experts(bundle_folder)
    message = refusal(bundle_folder)
    assert message.startswith("experts/expert-0/adapter_model.safetensors, field 'files.experts/expert-0/")
    assert "bytes changed" in message


def test_swapped_expert_folders_with_a_new_seal(bundle_folder: Path) -> None:
    swap_experts(bundle_folder)
    reseal(bundle_folder)
    message = refusal(bundle_folder)
    assert message.startswith("experts/expert-0, field 'digest'")
    assert "swapped" in message


def test_a_shuffled_label_order(bundle_folder: Path) -> None:
    edit_manifest(bundle_folder, lambda content: content["label_order"].reverse())
    message = refusal(bundle_folder)
    assert message.startswith("bundle.json, field 'label_order'")
    assert "expert-2" in message


def test_shuffled_labels_and_experts_with_a_new_seal(bundle_folder: Path) -> None:
    def shuffle(content: dict[str, Any]) -> None:
        content["label_order"].reverse()
        content["experts"].reverse()

    reseal(bundle_folder, shuffle)
    message = refusal(bundle_folder)
    assert message.startswith("router/head.safetensors, field 'labels'")
    assert "['expert-0', 'expert-1', 'expert-2']" in message
    assert "['expert-2', 'expert-1', 'expert-0']" in message


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_unknown_format_version(bundle_folder: Path, version: object) -> None:
    edit_manifest(bundle_folder, lambda content: content.update(format_version=version))
    message = refusal(bundle_folder)
    assert message.startswith("bundle.json, field 'format_version'")
    assert repr(version) in message


@pytest.mark.parametrize(
    ("place", "field"),
    [((), "surprise"), (("experts", 1), "experts.1.surprise"), (("base",), "base.surprise")],
)
def test_an_unknown_key(bundle_folder: Path, place: tuple[Any, ...], field: str) -> None:
    def add(content: Any) -> None:
        for key in place:
            content = content[key]
        content["surprise"] = 1

    edit_manifest(bundle_folder, add)
    assert refusal(bundle_folder).startswith(f"bundle.json, field {field!r}")


def test_a_missing_key(bundle_folder: Path) -> None:
    edit_manifest(bundle_folder, lambda content: content["calibration"].pop("temperature"))
    assert refusal(bundle_folder).startswith("bundle.json, field 'calibration.temperature'")


def test_an_extra_file(bundle_folder: Path) -> None:
    (bundle_folder / "experts" / "expert-0" / "notes.txt").write_text("mine")
    message = refusal(bundle_folder)
    assert message.startswith("experts/expert-0/notes.txt, field 'files'")


def test_a_head_with_another_k(bundle_folder: Path) -> None:
    path = bundle_folder / HEAD
    with safe_open(path, framework="np") as head:
        tensors = {name: head.get_tensor(name)[:2] for name in ("W", "b")}
        labels = head.metadata()["labels"]
    save_file(tensors, path, metadata={"labels": labels})
    reseal(bundle_folder)
    message = refusal(bundle_folder)
    assert message.startswith("router/head.safetensors, field 'labels'")
    assert "2 outputs" in message


def test_a_head_of_other_labels(bundle_folder: Path) -> None:
    path = bundle_folder / HEAD
    with safe_open(path, framework="np") as head:
        tensors = {name: head.get_tensor(name) for name in ("W", "b")}
    save_file(tensors, path, metadata={"labels": json.dumps(["expert-0", "expert-2", "expert-1"])})
    reseal(bundle_folder)
    assert refusal(bundle_folder).startswith("router/head.safetensors, field 'labels'")


def test_a_head_that_is_no_safetensors_file(bundle_folder: Path) -> None:
    (bundle_folder / HEAD).write_bytes(b"\x80\x04pickle")
    reseal(bundle_folder)
    assert refusal(bundle_folder).startswith("router/head.safetensors, field 'W'")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    assert "there is no bundle.json in it" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "nowhere")


def test_a_bundle_given_as_a_file(bundle_folder: Path) -> None:
    message = refusal(bundle_folder / "bundle.json")
    assert "it is a file" in message


def test_a_link_is_refused_wherever_it_points(bundle_folder: Path) -> None:
    (bundle_folder / "report" / "link").symlink_to("/nowhere")
    assert refusal(bundle_folder).startswith("report/link, field 'files'")


@pytest.mark.parametrize("folder", ["experts/none", "/tmp/elsewhere", "../experts/expert-0"])
def test_an_adapter_that_the_bundle_does_not_hold(bundle_folder: Path, folder: str) -> None:
    reseal(bundle_folder, lambda content: content["experts"][0].update(folder=folder))
    assert f"files.{folder}/adapter_config.json" in refusal(bundle_folder)


def test_two_experts_in_one_folder(bundle_folder: Path) -> None:
    edit_manifest(bundle_folder, lambda content: content["experts"][1].update(folder="experts/expert-0"))
    assert "share one folder" in refusal(bundle_folder)


def test_a_manifest_that_does_not_list_the_chat_template(bundle_folder: Path) -> None:
    (bundle_folder / "chat_template.jinja").unlink()
    edit_manifest(bundle_folder, lambda content: content["files"].pop("chat_template.jinja"))
    reseal(bundle_folder)
    assert "files.chat_template.jinja" in refusal(bundle_folder)


def test_a_rank_that_is_not_the_adapters(bundle_folder: Path) -> None:
    reseal(bundle_folder, lambda content: content["lora"].update(rank=8))
    message = refusal(bundle_folder)
    assert message.startswith("experts/expert-0/adapter_model.safetensors, field 'base_model.")
    assert "its rank is 4, the manifest's lora.rank is 8" in message


def test_a_head_for_another_encoder(bundle_folder: Path) -> None:
    reseal(bundle_folder, lambda content: content["router"].update(hidden=5))
    assert refusal(bundle_folder).startswith(f"{HEAD}, field 'W'")


def test_a_threshold_that_is_no_probability(bundle_folder: Path) -> None:
    edit_manifest(bundle_folder, lambda content: content["calibration"].update(threshold=7.0))
    assert refusal(bundle_folder).startswith("bundle.json, field 'calibration.threshold'")


def edit_fingerprints(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "fingerprints.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    reseal(folder)


def test_fingerprints_are_required(bundle_folder: Path) -> None:
    (bundle_folder / "fingerprints.json").unlink()
    edit_manifest(bundle_folder, lambda content: content["files"].pop("fingerprints.json"))
    reseal(bundle_folder)
    assert "files.fingerprints.json" in refusal(bundle_folder)


def test_a_changed_fingerprint(bundle_folder: Path) -> None:
    path = bundle_folder / "fingerprints.json"
    path.write_text(path.read_text().replace("-1.5", "-1.6"))
    assert refusal(bundle_folder).startswith("fingerprints.json, field 'files.fingerprints.json'")


def test_fingerprints_of_other_adapters(bundle_folder: Path) -> None:
    edit_fingerprints(bundle_folder, lambda content: content["adapters"].pop("expert-1"))
    message = refusal(bundle_folder)
    assert message.startswith("fingerprints.json, field 'adapters'")
    assert "expert-1" in message


def test_a_fingerprint_that_lacks_a_prompt(bundle_folder: Path) -> None:
    edit_fingerprints(bundle_folder, lambda content: content["adapters"]["expert-1"].clear())
    message = refusal(bundle_folder)
    assert message.startswith("fingerprints.json")
    assert "expert-1 has 0 entries for 1 prompts" in message


def test_a_token_without_its_logprob(bundle_folder: Path) -> None:
    edit_fingerprints(bundle_folder, lambda content: content["base"][0]["logprobs"].pop())
    assert refusal(bundle_folder).startswith("fingerprints.json, field 'base.0'")


def test_other_users_can_read_what_was_written(bundle_folder: Path) -> None:
    assert (bundle_folder / ADAPTER).stat().st_mode & 0o044 == 0o044


def reseal_adapters(folder: Path) -> None:
    """Reseal it with new digests of its adapters."""

    def change(content: dict[str, Any]) -> None:
        for record in (*content["experts"], content["fallback"]):
            record["digest"] = adapter_digest(folder / record["folder"])

    reseal(folder, change)


WEIGHTS = (ADAPTER, "fallback/adapter_model.safetensors", HEAD)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("file", WEIGHTS)
def test_a_number_that_is_none(bundle_folder: Path, file: str, dtype: type, number: float) -> None:
    """A comparison with NaN passes whatever stands on its other side."""
    with safe_open(bundle_folder / file, framework="np") as kept:
        metadata = kept.metadata()
        tensors = {name: kept.get_tensor(name).astype(dtype) for name in kept.keys()}  # noqa: SIM118
    name = sorted(tensors)[0]
    tensors[name].flat[tensors[name].size - 1] = number
    save_file(tensors, bundle_folder / file, metadata=metadata)
    reseal_adapters(bundle_folder)
    assert refusal(bundle_folder).startswith(f"{file}, field '{name}': not every number in it is finite")


def test_a_bfloat16_that_is_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    fine, wrong = torch.full((3,), 3.3e38), torch.tensor([1.0, float("nan")])
    save_torch({"w": fine.bfloat16(), "n": torch.tensor([1])}, tmp_path / "fine.safetensors")
    save_torch({"w": fine.bfloat16(), "x": wrong.bfloat16()}, tmp_path / "wrong.safetensors")
    assert not_finite(tmp_path / "fine.safetensors") is None
    assert not_finite(tmp_path / "wrong.safetensors") == "x"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_a_fingerprint_that_is_no_number(bundle_folder: Path, number: str) -> None:
    path = bundle_folder / "fingerprints.json"
    path.write_text(re.sub(r'("logprobs":\[)[^,\]]+', rf"\g<1>{number}", path.read_text(), count=1))
    reseal_adapters(bundle_folder)
    assert refusal(bundle_folder).startswith("fingerprints.json, field 'base.0.logprobs.0'")


@pytest.mark.parametrize("number", ["NaN", "Infinity"])
def test_a_manifest_with_a_number_that_is_none(bundle_folder: Path, number: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["calibration"]["temperature"] = float(number)

    edit_manifest(bundle_folder, change)
    assert "calibration.temperature" in refusal(bundle_folder)


@pytest.mark.parametrize("name", ["a\r\nx-more: 1", "a\nb", "a\0", ""])
def test_a_base_model_whose_name_would_break_a_header(bundle_folder: Path, name: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["base"]["name"] = name

    edit_manifest(bundle_folder, change)
    assert refusal(bundle_folder).startswith("bundle.json, field 'base.name'")


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("bundle.json", DEEP.encode()),
        ("fingerprints.json", DEEP.encode()),
        ("fingerprints.json", b"\xff\xfe"),
        ("chat_template.jinja", b"{{ messages }} \xff"),
        (ADAPTER, b"short"),
        (ADAPTER, (8).to_bytes(8, "little") + b"{}      "),
        (HEAD, (2**60).to_bytes(8, "little") + b"{}"),
        (HEAD, len(DEEP).to_bytes(8, "little") + DEEP.encode()),
    ],
)
def test_what_is_damaged_beyond_its_form_is_one_sentence_too(
    bundle_folder: Path, file: str, content: bytes
) -> None:
    (bundle_folder / file).write_bytes(content)
    if file != "bundle.json":
        reseal_adapters(bundle_folder)
    assert refusal(bundle_folder).startswith(file)


@pytest.mark.parametrize("file", WEIGHTS)
def test_tensors_without_dimensions(bundle_folder: Path, file: str) -> None:
    with safe_open(bundle_folder / file, framework="np") as kept:
        metadata, names = kept.metadata(), list(kept.keys())
    save_file({name: np.array(1.0, np.float32) for name in names}, bundle_folder / file, metadata=metadata)
    reseal_adapters(bundle_folder)
    assert refusal(bundle_folder).startswith(file)
