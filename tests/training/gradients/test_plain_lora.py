"""Whatever the per-row gradients would not be exact for is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from torch import nn

from tests.stand_ins.tiny_model import PAD, tiny_llama, with_adapter
from training.errors import AdapterRefused, TrainingError
from training.gradients.plain_lora import check_adapter
from training.gradients.row_gradients import RowGradients


def refusal(model: PeftModel) -> str:
    with pytest.raises(AdapterRefused) as caught:
        check_adapter(model)
    assert isinstance(caught.value, TrainingError)
    with pytest.raises(AdapterRefused):
        RowGradients(model, PAD, 100)
    return str(caught.value)


def test_plain_lora_passes() -> None:
    check_adapter(with_adapter(tiny_llama()))
    check_adapter(with_adapter(tiny_llama(), use_rslora=True))
    check_adapter(with_adapter(tiny_llama(), target_modules=["q_proj", "down_proj"]))
    check_adapter(with_adapter(tiny_llama(), rank_pattern={"q_proj": 8}, alpha_pattern={"q_proj": 3}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"bias": "all"}, "bias='all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]}, "trainable_token_indices"),
        (
            {"target_modules": ["q_proj"], "target_parameters": ["model.layers.0.self_attn.k_proj.weight"]},
            "target_parameters",
        ),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"alora_invocation_tokens": [5]}, "aLoRA"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens: .* an embedding"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head: .* an embedding or head"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_plain_lora_is_named(changes: dict[str, Any], named: str) -> None:
    model = with_adapter(tiny_llama(), fresh=True, **changes)
    with pytest.raises(AdapterRefused, match=named):
        check_adapter(model)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (IA3Config(task_type="CAUSAL_LM"), "IA3"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "PREFIX_TUNING"),
    ],
)
def test_another_kind_of_adapter_is_named(config: Any, named: str) -> None:
    assert named in refusal(get_peft_model(tiny_llama(), config))


def test_two_active_adapters_are_refused_and_an_idle_second_is_not() -> None:
    model = with_adapter(tiny_llama())
    model.add_adapter("second", LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    check_adapter(model)
    model.base_model.set_adapter(["default", "second"])
    message = refusal(model)
    assert "exactly one active adapter" in message
    assert "second" in message


def merge(model: PeftModel) -> None:
    model.merge_adapter()


def switch_off(model: PeftModel) -> None:
    model.base_model.disable_adapter_layers()


@pytest.mark.parametrize(("change", "named"), [(merge, "merged"), (switch_off, "switched off")])
def test_an_adapter_that_is_not_run_by_itself_is_refused(
    change: Callable[[PeftModel], None], named: str
) -> None:
    model = with_adapter(tiny_llama())
    change(model)
    assert named in refusal(model)


def test_a_factor_that_is_not_a_plain_linear_is_refused() -> None:
    class OwnLinear(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    model = with_adapter(tiny_llama())
    layer = model.get_base_model().model.layers[1].self_attn.q_proj
    layer.lora_A["default"] = OwnLinear(64, 4, bias=False)
    message = refusal(model)
    assert "layers.1.self_attn.q_proj" in message
    assert "plain linear" in message
