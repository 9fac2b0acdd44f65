from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bundle.base_check import check_adapter_shapes, check_base
from bundle.errors import BundleError
from bundle.read import read_bundle
from tests.stand_ins.small_bundle import make_base


def test_the_base_of_training_passes(pristine: Path, base: Path) -> None:
    check_base(read_bundle(pristine), base)


def test_a_base_of_other_shapes_is_refused_by_tensor(pristine: Path, tmp_path: Path) -> None:
    wider = make_base(tmp_path / "wider", hidden=40)
    with pytest.raises(
        BundleError, match=r"experts/expert-0/adapter_model.safetensors, field 'base_model"
    ) as e:
        check_base(read_bundle(pristine), wider)
    assert "does not fit" in str(e.value)
    assert str(wider) in str(e.value)


def test_other_weights_of_equal_shape_are_refused_by_hash(pristine: Path, tmp_path: Path) -> None:
    twin = make_base(tmp_path / "twin", seed=7)
    with pytest.raises(BundleError, match=r"bundle.json, field 'base.weights_sha256'") as e:
        check_base(read_bundle(pristine), twin)
    assert "'tiny'" in str(e.value)


def test_a_base_without_safetensors_is_refused(pristine: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no \*\.safetensors file"):
        check_base(read_bundle(pristine), tmp_path)


IN_MEMORY = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
ON_THE_DISK = "language_model.model.layers.0.self_attn.q_proj.weight"
OF_THE_EYE = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("base", "refusal"),
    [
        ({ON_THE_DISK: [8, 6], OF_THE_EYE: [2, 2]}, None),
        ({"model.language_model.layers.0.self_attn.q_proj.weight": [8, 6], OF_THE_EYE: [2, 2]}, None),
        ({ON_THE_DISK: [8, 5], OF_THE_EYE: [8, 6]}, "does not fit"),
        ({OF_THE_EYE: [8, 6]}, "has no weight 'model.language_model.layers.0"),
        ({ON_THE_DISK: [8, 6], f"other.{ON_THE_DISK}": [8, 6]}, "has no weight"),
    ],
    ids=str,
)
def test_a_language_model_inside_another_is_found_under_its_name_on_the_disk(
    base: dict[str, list[int]], refusal: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "adapter.safetensors"
    weights = {"lora_A": torch.zeros(2, 6), "lora_B": torch.zeros(8, 2)}
    save_file({f"{IN_MEMORY}.{side}.weight": weight for side, weight in weights.items()}, file)
    if refusal is None:
        check_adapter_shapes(file, "adapter", base, tmp_path)
    else:
        with pytest.raises(BundleError, match=refusal):
            check_adapter_shapes(file, "adapter", base, tmp_path)
