"""vLLM's offline engine against Transformers: the same greedy answers, and nothing left running."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import psutil
import pytest

from evaluation.answers.engines import TransformersEngine, VllmEngine
from evaluation.seed.partition import Model
from tests.stand_ins.tiny_comparison import Files
from tests.stand_ins.tiny_model import with_adapter
from training.errors import TrainingError
from training.models.base_model import find_base
from training.recipe import BaseSection

PROMPTS = [[1, 9, 30, 77, 100], [1, 40, 41], [1, 300, 301, 302, 303, 304, 305]]


@pytest.mark.slow
def test_answers_are_those_of_transformers_whoever_answers(files: Files, tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("NOT TESTED: vLLM is not installed")
    base = find_base(BaseSection(model=str(files.base), dtype="float32"))
    with_adapter(base.load()).save_pretrained(str(tmp_path / "adapter"))
    whole = with_adapter(base.load()).merge_and_unload()  # type: ignore[operator]
    whole.save_pretrained(str(tmp_path / "whole"))
    base.tokenizer().save_pretrained(str(tmp_path / "whole"))
    models = [
        Model("base", "base", None, "0"),
        Model("adapter", "adapter", tmp_path / "adapter", "1"),
        Model("whole", "whole", tmp_path / "whole", "2"),
    ]
    plain, served = (
        TransformersEngine(base, base.tokenizer()),
        VllmEngine(base, base.tokenizer(), tmp_path / "vllm.log"),
    )
    try:
        written = [served.answers(model, PROMPTS, 8) for model in models]
        assert written == [plain.answers(model, PROMPTS, 8) for model in models]
        assert written[0] != written[1]
        assert written[1] == written[2]
        with pytest.raises(TrainingError, match=r"vLLM ended before it answered; .*vllm\.log says why"):
            served.answers(Model("gone", "adapter", _without_weights(tmp_path), "3"), PROMPTS, 8)
    finally:
        served.close()
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    assert [child for child in alive if "vllm_worker" in " ".join(child.cmdline())] == []


def _without_weights(folder: Path) -> Path:
    broken = folder / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text((folder / "adapter" / "adapter_config.json").read_text())
    return broken
