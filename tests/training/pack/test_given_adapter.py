"""An adapter that could not be served as it is, is refused by file and field."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from bundle.base_check import base_shapes
from tests.stand_ins.packing_world import edit_config, edit_weights, save_adapter
from tests.stand_ins.tiny_model import save_base
from training.errors import PackError
from training.pack.adapter import LARGEST_RANK, read_adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Q_PROJ = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapter") / "math", 2)


@pytest.fixture
def adapter(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "math"))


def refusal(folder: Path, base: Path) -> str:
    with pytest.raises(PackError) as caught:
        read_adapter("math", folder, base_shapes(base), base)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"r": 2, "target_modules": ["q_proj"]},
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 16}, "alpha_pattern": {"q_proj": 3}},
    ],
)
def test_plain_lora_of_any_shape_passes(base: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    given = read_adapter("math", save_adapter(tmp_path / "a", 2, **changes), base_shapes(base), base)
    assert given.base == "somebody/else"


@pytest.mark.parametrize("module", ["lm_head", "model.embed_tokens"])
def test_an_adapter_outside_the_blocks(base: Path, adapter: Path, module: str) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.ones(2, 32)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.ones(64, 2)

    edit_weights(adapter, add)
    assert f"{module} lies outside the model's blocks" in refusal(adapter, base)


def test_adapters_are_the_same_if_they_answer_the_same(base: Path, adapter: Path, tmp_path: Path) -> None:
    shapes = base_shapes(base)
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    edit_config(copy, base_model_name_or_path="renamed", lora_dropout=0.5)
    first = read_adapter("math", adapter, shapes, base)
    assert read_adapter("copy", copy, shapes, base).acts_like == first.acts_like
    edit_config(copy, lora_alpha=1)
    assert read_adapter("copy", copy, shapes, base).acts_like != first.acts_like


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["experts.w"]}, "target_parameters"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights"),
        ({"r": "eight"}, "r"),
        ({"r": 8}, "r"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"rank_pattern": {"q_proj": "many"}}, "rank_pattern"),
    ],
)
def test_a_config_that_is_not_plain_lora(
    base: Path, adapter: Path, changes: dict[str, Any], field: str
) -> None:
    edit_config(adapter, **changes)
    assert f"{adapter / CONFIG}, field {field!r}" in refusal(adapter, base)


def _zero(tensors: dict[str, torch.Tensor]) -> None:
    for name in tensors:
        if ".lora_B." in name:
            tensors[name] = torch.zeros_like(tensors[name])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop(f"{Q_PROJ}.lora_B.weight"), "its other half is missing"),
        (
            lambda t: t.update({f"{Q_PROJ}.lora_A.weight": torch.ones(3, 64)}),
            "its rank is 3, its other half's 4",
        ),
        (lambda t: t[f"{Q_PROJ}.lora_A.weight"].fill_(float("nan")), "not every number in it is finite"),
        (lambda t: t.update({f"{Q_PROJ}.lora_magnitude_vector": torch.ones(3)}), "no A or B of a LoRA"),
        (lambda t: t.update({"model.q.lora_A.weight": torch.ones(4, 4)}), "no A or B of a LoRA"),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(4, 4)}),
            "'base_model.model.lm_head.weight': it is no A or B",
        ),
        (_zero, "every B is zero, so the adapter does nothing"),
        (lambda t: t.clear(), "there is no tensor in it"),
    ],
)
def test_weights_that_are_not_plain_lora(
    base: Path, adapter: Path, change: Callable[[dict[str, torch.Tensor]], None], says: str
) -> None:
    edit_weights(adapter, change)
    said = refusal(adapter, base)
    assert said.startswith(str(adapter / WEIGHTS))
    assert says in said


def test_shapes_of_another_base_are_named(pristine: Path, tmp_path: Path) -> None:
    from tests.stand_ins.tiny_model import tiny_llama

    wider = tmp_path / "wider"
    tiny_llama(hidden_size=128).save_pretrained(wider)
    said = refusal(pristine, wider)
    assert f"{pristine / WEIGHTS}, field '{'base_model'}" in said
    assert "does not fit" in said


def test_more_layers_than_the_base_has(pristine: Path, tmp_path: Path) -> None:
    from tests.stand_ins.tiny_model import tiny_llama

    shorter = tmp_path / "shorter"
    tiny_llama(num_hidden_layers=1).save_pretrained(shorter)
    assert "has no weight 'model.layers.1." in refusal(pristine, shorter)


def test_pickles_are_not_read(base: Path, adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    assert "it has adapter_model.bin and no adapter_model.safetensors" in refusal(adapter, base)


def test_files_that_are_missing_or_broken(base: Path, adapter: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in refusal(tmp_path / "nowhere", base)
    assert "it has no adapter_config.json" in refusal(tmp_path, base)
    (adapter / WEIGHTS).write_bytes(b"\x80\x04pickle")
    assert "it can't be read" in refusal(adapter, base)
    (adapter / CONFIG).write_text("{")
    assert "it can't be read as JSON" in refusal(adapter, base)
    (adapter / CONFIG).write_text("[]")
    assert "it is not a JSON object" in refusal(adapter, base)


def test_a_rank_above_vllms_largest(base: Path, adapter: Path) -> None:
    def grow(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"{Q_PROJ}.lora_A.weight"] = torch.ones(513, 64)
        tensors[f"{Q_PROJ}.lora_B.weight"] = torch.ones(128, 513)

    edit_weights(adapter, grow)
    assert "its rank 513 is above vLLM's largest, 512" in refusal(adapter, base)


def test_the_largest_rank_is_vllms_own() -> None:
    lora = pytest.importorskip("vllm.config.lora", reason="NOT TESTED: vLLM is not installed")
    assert max(get_args(lora.MaxLoRARanks)) == LARGEST_RANK
