"""d and the weights' count from a config alone, against PEFT's own adapter and the published sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.stand_ins.tiny_model import ROOT
from training.errors import RecipeError
from training.memory.model_shape import read_shape
from training.models.base_model import BaseModel
from training.models.finetune import new_adapter
from training.recipe import LoraSection

SHAPES = ROOT / "recipes" / "shapes"


@pytest.mark.parametrize(
    ("name", "dimension", "weights"),
    [
        ("llama-2-7b", 79_953_920, 6_738_415_616),
        ("llama-3.2-1b", 22_544_384, 1_235_814_400),
        ("smollm2-135m", 9_768_960, 134_515_008),
    ],
)
def test_the_published_sizes(name: str, dimension: int, weights: int) -> None:
    shape = read_shape(str(SHAPES / name), LoraSection(rank=32))
    assert (shape.name, shape.dimension, shape.weights) == (name, dimension, weights)


def test_a_bare_config_file_is_enough() -> None:
    folder = SHAPES / "smollm2-135m"
    shape = read_shape(str(folder / "config.json"), LoraSection(rank=8))
    assert shape.name == "smollm2-135m"
    assert shape.dimension == read_shape(str(folder), LoraSection(rank=8)).dimension == 9_768_960 // 4


def test_it_is_the_adapter_that_training_makes(base: BaseModel) -> None:
    adapted = new_adapter(base, LoraSection(rank=6, alpha=6), seed=0)
    lora = [weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name]
    shape = read_shape(str(base.folder), LoraSection(rank=6))
    assert shape.dimension == sum(lora)
    assert shape.largest_factor == max(lora)
    assert shape.weights == sum(weight.numel() for weight in base.load().parameters())


def test_a_gigantic_model_takes_no_memory() -> None:
    model = read_shape(str(SHAPES / "llama-2-7b"), LoraSection(rank=32)).build()
    assert {weight.device for weight in model.parameters()} == {torch.device("meta")}


def test_a_missing_config_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"base\.model: no model config was found for .*no-such-model"):
        read_shape(str(tmp_path / "no-such-model"), LoraSection(rank=8))


def test_a_model_without_a_language_head_is_refused(tmp_path: Path) -> None:
    config = {"model_type": "vit", "architectures": ["ViTModel"]}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(RecipeError, match="is no model that generates text"):
        read_shape(str(tmp_path), LoraSection(rank=8))
