"""Code that lies beside a model's weights is never run, and nobody is asked whether it may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.errors import RecipeError
from training.memory.model_shape import read_shape
from training.models.architecture import read_config
from training.models.base_model import find_base
from training.models.encoder import EncoderError, load_encoder
from training.recipe import BaseSection, LoraSection


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose code would leave a file behind, and a user who types "y" to everything."""
    (tmp_path / "m").mkdir()
    config = {"model_type": "own_kind", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    (tmp_path / "m/own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "m/model.safetensors").write_bytes(b"")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    yield tmp_path / "m"
    assert not (tmp_path / "ran").exists()


def test_a_base_model(model: Path) -> None:
    for read in (
        lambda: read_config(str(model)),
        lambda: find_base(BaseSection(model=str(model))),
        lambda: read_shape(str(model), LoraSection()),
    ):
        with pytest.raises(RecipeError, match="needs code of its own"):
            read()


def test_an_encoder(model: Path) -> None:
    with pytest.raises(EncoderError, match="can't be loaded"):
        load_encoder(str(model))
