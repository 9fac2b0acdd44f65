from __future__ import annotations

from pathlib import Path

import pytest

from bundle.base_check import check_base
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
