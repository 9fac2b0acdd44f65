"""Whether the engine serves LoRA on an architecture, and what is done where nobody knows."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import pytest
from rich.console import Console

from training.errors import RecipeError
from training.models import servable
from training.models.base_model import BaseModel
from training.models.servable import EngineUnknownError, check_servable, not_servable
from training.progress import Narrator


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma3ForConditionalGeneration", "GptOssForCausalLM"])
def test_what_it_serves(name: str) -> None:
    assert not_servable([name]) is None


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("GPT2LMHeadModel", "serves no LoRA adapters on it"),
        ("StableLmForCausalLM", "serves no LoRA adapters on it"),
        ("FalconForCausalLM", "serves no LoRA adapters on it"),
        ("BambaForCausalLM", "does not know the architecture BambaForCausalLM"),
        ("NoSuchModel", "does not know"),
    ],
)
def test_what_it_does_not(name: str, why: str) -> None:
    assert why in str(not_servable([name]))


@pytest.mark.slow
def test_vllm_itself_says_the_same() -> None:
    from vllm.model_executor.models.interfaces import supports_lora
    from vllm.model_executor.models.registry import ModelRegistry

    for name in (
        "LlamaForCausalLM",
        "GPT2LMHeadModel",
        "Qwen3MoeForCausalLM",
        "FalconForCausalLM",
        "PhiForCausalLM",
    ):
        loaded = ModelRegistry.models[name].load_model_cls()
        assert bool(supports_lora(loaded)) == (not_servable([name]) is None), name


def refused_on(base: BaseModel, monkeypatch: pytest.MonkeyPatch, train_only: bool) -> str:
    monkeypatch.setattr(servable, "not_servable", lambda names: "it can't")
    screen = io.StringIO()
    check_servable(base, train_only, Narrator(Console(file=screen, width=200)))
    return screen.getvalue()


def test_a_base_that_could_not_be_served_is_refused_unless_it_is_only_trained(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError, match=r"it can't, so no bundle .* --train-only"):
        refused_on(base, monkeypatch, train_only=False)
    assert "it can't" in refused_on(base, monkeypatch, train_only=True)


def test_a_model_that_sees_needs_torchvision_to_be_served(
    base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(there: bool) -> str:
        monkeypatch.setattr(servable, "not_servable", lambda names: None)
        monkeypatch.setattr(servable, "has_other_parts", lambda config: True)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if there else None)
        screen = io.StringIO()
        check_servable(base, False, Narrator(Console(file=screen, width=300)))
        return screen.getvalue()

    assert "with torchvision, which is not installed here" in said(there=False)
    assert said(there=True) == ""


def test_without_vllm_it_says_that_it_does_not_know(base: BaseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EngineUnknownError, match="not installed"):
        not_servable(["LlamaForCausalLM"])
    screen = io.StringIO()
    check_servable(base, False, Narrator(Console(file=screen, width=200)))
    assert "is not known: vLLM is not installed here" in screen.getvalue()


def test_a_vllm_of_another_form_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "vllm" / "model_executor" / "models"
    models.mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text("")
    (models / "registry.py").write_text("MODELS = {}")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: importlib.util.spec_from_file_location("vllm", tmp_path / "vllm" / "__init__.py"),
    )
    with pytest.raises(EngineUnknownError, match="no registry where one is expected"):
        not_servable(["LlamaForCausalLM"])
