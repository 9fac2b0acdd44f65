"""Adapters that exist become a bundle, and whatever stands in the way is said before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import training.pack.pack as packing_module
from bundle.base_check import check_base
from bundle.read import Bundle, read_bundle
from cli.main import app
from tests.stand_ins.packing_world import (
    PROMPTS,
    PackingWorld,
    labelled,
    make_world,
    save_adapter,
    write_rows,
)
from tests.stand_ins.tiny_model import tiny_llama
from training.errors import PackError, TrainingError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> PackingWorld:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def packed(world: PackingWorld, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return world.pack(tmp_path_factory.mktemp("packed") / "bundle")


def test_adapters_of_different_shapes_stand_in_one_manifest(packed: Bundle, world: PackingWorld) -> None:
    manifest = read_bundle(packed.folder).manifest
    assert manifest.label_order == ("math", "story")
    assert (manifest.lora.rank, manifest.lora.alpha) == (8, None)
    math, story = (expert.lora for expert in manifest.experts)
    assert math is not None
    assert story is not None
    assert (math.rank, math.alpha, story.rank, story.alpha) == (4, 12, 8, 8)
    assert story.target_modules == ("down_proj", "q_proj")
    assert set(manifest.lora.target_modules) == set(math.target_modules) > set(story.target_modules)
    assert [expert.rows for expert in manifest.experts] == [12, 12]
    assert manifest.calibration.held_out_rows == 2
    assert manifest.data_licenses == ("mit",)
    check_base(packed, Path(world.packing.base.model))


def test_the_weights_are_those_given_and_the_base_is_named_in_them(
    packed: Bundle, world: PackingWorld
) -> None:
    given = load_file(world.packing.adapters["story"] / "adapter_model.safetensors")
    inside = load_file(packed.expert_folder(1) / "adapter_model.safetensors")
    assert all(np.array_equal(given[name], inside[name]) for name in given.keys() | inside.keys())
    config = json.loads((packed.expert_folder(1) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == world.packing.base.model
    model = PeftModel.from_pretrained(tiny_llama(), str(packed.expert_folder(1)))
    assert model(input_ids=torch.tensor([[5, 6]])).logits.isfinite().all()


def test_route_sends_prompts_to_the_right_expert(packed: Bundle) -> None:
    asked = [f"{prompt} 7" for prompts in PROMPTS.values() for prompt in prompts]
    result = CliRunner().invoke(app, ["route", str(packed.folder), *asked, "--json"])
    assert result.exit_code == 0, result.stderr
    chosen = [row["expert"] for row in json.loads(result.stdout)]
    assert chosen == ["math"] * 3 + ["story"] * 3


def test_left_out_the_fallback_is_the_expert_with_the_most_rows(world: PackingWorld, tmp_path: Path) -> None:
    rows = [*labelled(), *({"prompt": f"A tale of {n}.", "expert": "story"} for n in range(3))]
    bundle = world.pack(tmp_path / "bundle", rows=(str(write_rows(tmp_path / "rows.jsonl", rows)),))
    fallback, story = bundle.manifest.fallback, bundle.manifest.experts[1]
    assert (fallback.kind, fallback.expert, fallback.name) == ("expert", "story", "story")
    assert fallback.engine_name == story.engine_name
    assert bundle.fallback_folder == bundle.expert_folder(1)
    assert bundle.manifest.adapters == bundle.manifest.experts
    assert not (bundle.folder / "fallback").exists()
    assert "Fallback: story" in world.said[-1]


def test_the_fallback_may_be_named_or_an_adapter_of_its_own(world: PackingWorld, tmp_path: Path) -> None:
    named = world.pack(tmp_path / "named", fallback="story").manifest.fallback
    assert (named.kind, named.name) == ("expert", "story")
    other = save_adapter(tmp_path / "general", 9, r=16)
    manifest = world.pack(tmp_path / "other", fallback=str(other)).manifest
    assert (manifest.fallback.kind, manifest.fallback.name) == ("adapter", "fallback")
    assert manifest.fallback.lora is not None
    assert (manifest.lora.rank, manifest.fallback.lora.rank) == (16, 16)
    assert len(manifest.adapters) == 3


def test_the_default_chat_template_is_the_bases_and_another_can_be_given(
    world: PackingWorld, packed: Bundle, tmp_path: Path
) -> None:
    own = (Path(world.packing.base.model) / "chat_template.jinja").read_text()
    assert packed.chat_template.read_text() == own
    assert "Chat template: the base tokenizer's own" in "".join(world.said)
    chosen = tmp_path / "mine.jinja"
    chosen.write_text("{{ messages[-1]['content'] }}")
    base = world.packing.base.model_copy(update={"chat_template": chosen})
    bundle = world.pack(tmp_path / "bundle", base=base)
    assert bundle.chat_template.read_text() == chosen.read_text()
    assert str(chosen) in world.said[-1]


def test_what_may_be_wrong_is_warned_of(world: PackingWorld, tmp_path: Path) -> None:
    math = Path(shutil.copytree(world.packing.adapters["math"], tmp_path / "math"))
    (math / "chat_template.jinja").write_text("{{ messages }}")
    world.pack(tmp_path / "bundle", adapters=dict(world.packing.adapters) | {"math": math})
    assert "it was trained on 'somebody/else'" in world.said[-1]
    assert "holds another chat template. If math was trained with it" in world.said[-1]


def test_a_given_head_keeps_its_numbers_and_its_order(
    world: PackingWorld, packed: Bundle, tmp_path: Path
) -> None:
    head = load_file(packed.router_folder / "head.safetensors")
    turned = {name: np.ascontiguousarray(tensor[::-1]) for name, tensor in head.items()}
    save_file(turned, tmp_path / "head.safetensors", metadata={"labels": '["story", "math"]'})
    bundle = world.pack(tmp_path / "bundle", head=tmp_path / "head.safetensors", rows=())
    manifest = bundle.manifest
    assert manifest.label_order == ("story", "math")
    assert manifest.experts[1].digest == packed.manifest.experts[0].digest
    assert (manifest.calibration.temperature, manifest.calibration.agreement) == (1.0, None)
    assert manifest.fallback.name == "story"
    inside = load_file(bundle.router_folder / "head.safetensors")
    assert all(np.array_equal(inside[name], turned[name]) for name in turned)
    for command in ("inspect", "route"):
        arguments = [
            command,
            str(bundle.folder),
            *(["Tell a bedtime story. 7"] if command == "route" else []),
        ]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.stderr
        assert "story" in result.stdout
    assert "This was not measured" in (bundle.folder / "README.md").read_text()


def test_rows_calibrate_a_given_head_without_changing_it(
    world: PackingWorld, packed: Bundle, tmp_path: Path
) -> None:
    bundle = world.pack(tmp_path / "bundle", head=packed.router_folder / "head.safetensors")
    calibration = bundle.manifest.calibration
    assert calibration.held_out_rows == 12  # none was trained on here; half of them made the temperature
    assert calibration.agreement == 1.0
    assert calibration.temperature != 1.0
    same = [load_file(one.router_folder / "head.safetensors")["W"] for one in (bundle, packed)]
    assert np.array_equal(*same)


def test_the_card_of_a_packed_bundle(packed: Bundle) -> None:
    card = ModelCard.load(packed.folder / "README.md")
    assert card.data.to_dict()["library_name"] == "peft"
    assert card.data.to_dict().get("base_model") is None  # a folder's name would be a stranger's model there
    assert "`math`" in card.text
    assert "95 % Wilson interval" in card.text
    assert "of the data" not in card.text
    assert "README.md" in packed.manifest.files


def test_a_packing_that_fails_midway_leaves_nothing(
    world: PackingWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("training.bundling.bundle.write_card", full)
    with pytest.raises(OSError, match="full"):
        world.pack(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_an_older_bundle_is_replaced_and_anything_else_is_not(
    world: PackingWorld, packed: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(packed.folder, tmp_path / "bundle")
    assert world.pack(tmp_path / "bundle", fallback="story").manifest.fallback.name == "story"
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work")
    with pytest.raises(PackError, match="something that is no bundle is there"):
        world.pack(thesis)
    assert (thesis / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": ("math",)}, "give two or more"),
        ({"names": ("math", "sto ry")}, "--adapter 'sto ry': clients will ask for this name"),
        ({"names": ("math", "../story")}, "--adapter '../story'"),
        ({"names": ("math", "a,b")}, "--adapter 'a,b'"),
        ({"names": ("math", "Auto")}, "--adapter Auto: the service means something else"),
        ({"names": ("math", "fallback")}, "--adapter fallback"),
        ({"names": ("math", "MATH")}, "differ only in the case"),
        ({"names": ("math", "base")}, "the base model is called so already"),
        ({"rows": ()}, "Give --rows with labels to train the router on, or --head"),
        (
            {"fallback": "nobody"},
            "--fallback nobody: it is neither one of the adapters (math, story) nor a folder",
        ),
        ({"fallback": "ITS OWN TWIN"}, "these adapters are identical"),
        ({"encoder": "/nowhere"}, "there is no folder '/nowhere'"),
        ({"max_tokens": 65}, "reads at most 64 tokens"),
    ],
)
def test_what_can_not_be_packed_is_one_sentence(
    world: PackingWorld, tmp_path: Path, changes: dict, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = changes.pop("names", ())
    folders = list(world.packing.adapters.values())
    if names:
        changes["adapters"] = dict(zip(names, folders, strict=False))
    if changes.get("fallback") == "ITS OWN TWIN":
        changes["fallback"] = str(folders[0])
    monkeypatch.setattr(packing_module, "write_bundle", None)
    with pytest.raises(TrainingError) as caught:
        world.pack(tmp_path / "bundle", **changes)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_template_that_renders_nothing_is_refused(world: PackingWorld, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jinja"
    broken.write_text("{{ raise_exception('never') }}")
    base = world.packing.base.model_copy(update={"chat_template": broken})
    with pytest.raises(PackError, match=r"never.*--chat-template"):
        world.pack(tmp_path / "bundle", base=base)
