"""Experts may have any safe name, adapters any shape, and the fallback may be one of the experts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import LlamaForCausalLM

from bundle.base_check import check_base
from bundle.digests import adapter_digest
from bundle.errors import BundleError
from bundle.read import read_bundle
from tests.stand_ins.small_bundle import LABELS, edit_manifest, made_up_fingerprints, reseal


def refusal(folder: Path) -> str:
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    return str(caught.value)


def rename(folder: Path, name: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["experts"][0]["name"] = content["label_order"][0] = name

    edit_manifest(folder, change)


@pytest.mark.parametrize(
    "name", ["", "a b", "a,b", "a/b", "a@b", "../a", ".a", "-a", "a\n", "ä", "a" * 64, 'a"b']
)
def test_a_name_that_headers_urls_or_folders_could_misread(bundle_folder: Path, name: str) -> None:
    rename(bundle_folder, name)
    assert refusal(bundle_folder).startswith("bundle.json, field 'experts.0.name'")


@pytest.mark.parametrize("name", ["auto", "AUTO", "fallback", "none", "tiny", "Tiny", "EXPERT-1"])
def test_a_name_that_means_something_else(bundle_folder: Path, name: str) -> None:
    rename(bundle_folder, name)
    message = refusal(bundle_folder)
    assert message.startswith("bundle.json, field 'experts'")
    assert f"{name!r} is taken".casefold() in message.casefold()


def let_an_expert_be_the_fallback(bundle: Path, **changes: Any) -> None:
    shutil.rmtree(bundle / "fallback")
    made_up_fingerprints(LABELS).write(bundle)

    def change(content: dict[str, Any]) -> None:
        expert = content["experts"][1]
        record = {
            "kind": "expert",
            "expert": LABELS[1],
            "folder": expert["folder"],
            "digest": expert["digest"],
        }
        content["fallback"] = record | changes
        content["files"] = {k: v for k, v in content["files"].items() if not k.startswith("fallback/")}

    edit_manifest(bundle, change)


def test_an_expert_may_be_the_fallback(bundle_folder: Path) -> None:
    let_an_expert_be_the_fallback(bundle_folder)
    reseal(bundle_folder)
    bundle = read_bundle(bundle_folder)
    assert bundle.manifest.adapters == bundle.manifest.experts
    assert bundle.manifest.fallback.engine_name == bundle.manifest.experts[1].engine_name
    assert bundle.fallback_folder == bundle.expert_folder(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"expert": None},
        {"expert": "expert-9"},
        {"expert": LABELS[0]},
        {"digest": "0" * 64},
        {"folder": "fallback"},
        {"kind": "warmup"},
    ],
)
def test_a_fallback_that_is_not_the_expert_it_says(bundle_folder: Path, changes: dict[str, Any]) -> None:
    let_an_expert_be_the_fallback(bundle_folder, **changes)
    assert refusal(bundle_folder).startswith("bundle.json, field 'fallback.expert'")


def test_adapters_may_differ_in_rank_and_modules(bundle_folder: Path, base: Path) -> None:
    adapter = bundle_folder / "experts" / LABELS[1]
    lora = LoraConfig(r=6, lora_alpha=3, target_modules=["v_proj"], init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(base), lora).save_pretrained(adapter)
    own = {"rank": 6, "alpha": 3, "target_modules": ["v_proj"]}
    others = {"rank": 4, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}

    def change(content: dict[str, Any]) -> None:
        content["lora"] = {"rank": 6, "alpha": None, "target_modules": ["down_proj", "q_proj", "v_proj"]}
        content["experts"][1] |= {"lora": own, "digest": adapter_digest(adapter)}

    reseal(bundle_folder, change)
    assert "its rank is 4, the manifest's lora.rank is 6" in refusal(bundle_folder)

    def complete(content: dict[str, Any]) -> None:
        for record in (content["experts"][0], content["experts"][2], content["fallback"]):
            record["lora"] = others

    reseal(bundle_folder, complete)
    bundle = read_bundle(bundle_folder)
    assert [expert.lora.rank for expert in bundle.manifest.experts if expert.lora] == [4, 6, 4]
    check_base(bundle, base)


def test_no_adapter_has_a_larger_rank_than_the_bundle(bundle_folder: Path) -> None:
    own = {"rank": 5, "alpha": 8, "target_modules": []}
    edit_manifest(bundle_folder, lambda content: content["experts"][1].update(lora=own))
    assert refusal(bundle_folder).startswith("bundle.json, field 'lora.rank'")


def test_the_agreement_may_be_unknown(bundle_folder: Path) -> None:
    reseal(bundle_folder, lambda content: content["calibration"].update(agreement=None, held_out_rows=0))
    assert read_bundle(bundle_folder).manifest.calibration.agreement is None
