"""Scores against plain forward passes of each model loaded alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from evaluation.answers.mixed import mixed_answers
from evaluation.methods.merging import merge
from evaluation.seed.partition import Fitted, Model
from evaluation.seed.scoring import loaded, score
from evaluation.seed.seed_run import SeedRun
from tests.stand_ins.tiny_comparison import Files, seed_run
from tests.stand_ins.tiny_model import with_adapter
from training.models.base_model import BaseModel
from training.models.finetune import load_adapter
from training.progress import ignore_progress
from training.rows.rendering import TokenRow


@pytest.fixture
def run(files: Files, tmp_path: Path) -> SeedRun:
    return seed_run(files, tmp_path)


@pytest.fixture
def models(run: SeedRun, tmp_path: Path) -> tuple[Model, ...]:
    """Two adapters that say quite different things."""
    made = []
    for number in range(2):
        model = with_adapter(run.inputs.base.load(torch.float32), r=2 + number)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.mul_(1 - 2 * number)
        model.save_pretrained(str(tmp_path / f"adapter-{number}"))
        made.append(Model(f"adapter-{number}", "adapter", tmp_path / f"adapter-{number}", str(number)))
    return tuple(made)


@torch.no_grad()
def logits_of(base: BaseModel, model: Model, row: TokenRow) -> torch.Tensor:
    """[t, V] before each of the response's tokens."""
    assert model.folder is not None
    alone = load_adapter(base, model.folder, trainable=False, dtype=torch.float32).eval()
    logits = alone(input_ids=torch.tensor([list(row.input_ids)])).logits[0]
    return logits[row.prompt_length - 1 : -1]


def test_mixed_logits_and_single_models_are_scored_as_by_hand(
    run: SeedRun, models: tuple[Model, ...]
) -> None:
    weights = np.zeros((len(run.rows), 2))
    weights[:, 0] = np.linspace(0, 1, len(weights))  # the first row is the second model's alone
    weights[:, 1] = 1 - weights[:, 0]
    places = np.array([0, 7, 20, len(run.rows) - 1])
    other = weights[:, ::-1].copy()
    found = score(run, "mixed", Fitted(models, {"one way": weights, "other": other}, 0), places)
    for route, table in (("one way", weights), ("other", other)):
        for at, place in enumerate(places):
            row = run.rows[place]
            wanted = torch.tensor(list(row.input_ids[row.prompt_length :]))
            logits = sum(table[place, k] * logits_of(run.inputs.base, models[k], row) for k in (0, 1))
            assert isinstance(logits, torch.Tensor)
            assert found[route].loss[at] == pytest.approx(
                float(cross_entropy(logits.float(), wanted, reduction="sum")), rel=1e-4
            )
            assert found[route].right[at] == int((logits.argmax(1) == wanted).sum())
            assert found[route].tokens[at] == len(wanted)


def test_the_merged_adapter_changes_weights_by_the_mean_of_the_experts_changes(
    run: SeedRun, models: tuple[Model, ...], tmp_path: Path
) -> None:
    merge(run, models, tmp_path / "merged")

    def deltas(folder: Path) -> dict[str, torch.Tensor]:
        model = load_adapter(run.inputs.base, folder, trainable=False, dtype=torch.float32)
        name = model.active_adapters[0]
        return {
            place: module.get_delta_weight(name)
            for place, module in model.named_modules()
            if hasattr(module, "get_delta_weight")
        }

    merged, first, second = (deltas(tmp_path / name) for name in ("merged", "adapter-0", "adapter-1"))
    assert merged.keys() == first.keys()
    assert len(merged) == 14
    for place, delta in merged.items():
        assert float(delta.abs().max()) > 0
        torch.testing.assert_close(delta, (first[place] + second[place]) / 2)


def test_a_mixture_of_one_answers_as_transformers_does(run: SeedRun, models: tuple[Model, ...]) -> None:
    prompts = [list(run.rows[place].input_ids[: run.rows[place].prompt_length]) for place in (0, 5, 9)]
    with loaded(run.inputs.base, models) as ready:
        weights = np.tile([0.0, 1.0], (3, 1))
        found = mixed_answers(ready, weights, prompts, run.inputs.tokenizer, 6, ignore_progress)
        half = np.full((3, 2), 0.5)
        mixed = mixed_answers(ready, half, prompts, run.inputs.tokenizer, 6, ignore_progress)
    assert models[1].folder is not None
    alone = load_adapter(run.inputs.base, models[1].folder, trainable=False, dtype=torch.float32).eval()
    for prompt, text in zip(prompts, found, strict=True):
        ids = alone.generate(input_ids=torch.tensor([prompt]), max_new_tokens=6, do_sample=False)[0]
        assert text == run.inputs.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    assert mixed != found
