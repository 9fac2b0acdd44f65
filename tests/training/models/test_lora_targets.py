"""Which modules get an adapter: by `lora.target_modules`, and never outside the language model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Qwen3MoeConfig, Qwen3MoeForCausalLM

from tests.stand_ins.tiny_model import dozen_rows, tiny_llama
from training.diagnosis.diagnosis import diagnose_base, require_healthy
from training.errors import RecipeError
from training.models.architecture import max_positions, model_class, text_config
from training.models.lora_targets import lay_adapter
from training.recipe import LoraSection, read_recipe

SMALL = {
    "vocab_size": 768,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}


def adapted(model: Any, targets: Any) -> set[str]:
    laid = lay_adapter(model, LoraSection(rank=4, target_modules=targets), "tiny")
    names = [name for name, _ in laid.named_parameters() if ".lora_A." in name]
    return {name.split(".lora_A.")[0].removeprefix("base_model.model.") for name in names}


def leaves(names: set[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (("q_proj", "mlp.down_proj"), {"q_proj", "down_proj"}),
        (r".*\.layers\.1\.mlp\.up_proj", {"up_proj"}),
    ],
)
def test_every_form(targets: Any, expected: set[str]) -> None:
    assert leaves(adapted(tiny_llama(), targets)) == expected


def test_what_is_meant_by_nothing_is_named_with_what_there_is() -> None:
    for targets in (("q_proj", "query"), r".*\.query"):
        with pytest.raises(RecipeError, match=r"is called .*query.*down_proj, gate_proj"):
            adapted(tiny_llama(), targets)
    with pytest.raises(RecipeError, match="no regular expression"):
        adapted(tiny_llama(), "(q_proj")


def test_it_comes_from_a_recipe() -> None:
    given = {"data.files": ["x.jsonl"], "base.model": "b", "output": "o"}
    assert read_recipe(None, given, []).lora.target_modules == "all-linear"
    recipe = read_recipe(None, given, ["lora.target_modules=[q_proj, v_proj]"])
    assert recipe.lora.target_modules == ("q_proj", "v_proj")


def moe() -> Qwen3MoeForCausalLM:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
    return Qwen3MoeForCausalLM(config)


def test_a_mixture_of_experts_says_which_setting_helps_and_is_exact_with_it() -> None:
    with pytest.raises(RecipeError, match=r"Use lora\.target_modules=attention"):
        adapted(moe(), "all-linear")
    laid = lay_adapter(moe(), LoraSection(rank=4, target_modules="attention"), "tiny")
    require_healthy(diagnose_base(laid, dozen_rows()[:4], 0, 1 << 10))


def seeing() -> Gemma3ForConditionalGeneration:
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Gemma3Config(text_config=SMALL, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


def test_a_model_that_sees_is_trained_on_text_in_its_language_model_alone() -> None:
    model = seeing()
    assert model_class(model.config, "tiny") is Gemma3ForConditionalGeneration
    assert text_config(model.config).num_hidden_layers == 2
    assert max_positions(model.config) == 256
    assert all("language_model.layers" in name for name in adapted(model, "all-linear"))
    laid = lay_adapter(seeing(), LoraSection(rank=4, target_modules="all-linear"), "tiny")
    require_healthy(diagnose_base(laid, dozen_rows()[:4], 0, 1 << 10))
