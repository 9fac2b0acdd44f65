"""Factor by factor to layer by layer."""

from __future__ import annotations

import pytest

from training.clusters.norm_shares import norm_shares
from training.errors import TrainingError

LAYERS = "base_model.model.model.layers"
TOTALS = [
    (f"{LAYERS}.10.self_attn.q_proj.lora_A.default", 1.0),
    (f"{LAYERS}.10.self_attn.q_proj.lora_B.default", 2.0),
    (f"{LAYERS}.2.self_attn.q_proj.lora_B.default", 3.0),
    (f"{LAYERS}.2.mlp.up_proj.lora_B.default", 9.0),
    ("base_model.model.head.lora_B", 5.0),
]


def test_shares_add_up_by_factor_layer_and_module() -> None:
    found = norm_shares(TOTALS)
    assert (found["a"], found["b"]) == pytest.approx((0.05, 0.95))
    assert [layer["layer"] for layer in found["layers"]] == [2, 10, None]  # by number, not by letter
    assert [layer["b"] for layer in found["layers"]] == pytest.approx([0.6, 0.1, 0.25])
    assert found["layers"][1]["a"] == pytest.approx(0.05)
    assert [module["module"] for module in found["modules"]] == ["up_proj", "q_proj", "head"]
    assert [module["b"] for module in found["modules"]] == pytest.approx([0.45, 0.25, 0.25])
    for parts in (found["layers"], found["modules"]):
        assert sum(part["a"] + part["b"] for part in parts) == pytest.approx(1)


def test_the_tiny_models_own_names_are_understood() -> None:
    found = norm_shares([("base_model.model.model.layers.0.mlp.down_proj.lora_A.default", 0.5)])
    assert found["layers"] == [{"layer": 0, "a": 1.0, "b": 0.0}]
    assert found["modules"] == [{"module": "down_proj", "a": 1.0, "b": 0.0}]


def test_what_can_not_be_shared_out_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"layers\.0\.norm is no LoRA factor"):
        norm_shares([("layers.0.norm", 1.0)])
    with pytest.raises(TrainingError, match="All gradients are zero"):
        norm_shares([("layers.0.q_proj.lora_A.default", 0.0)])
