"""Training stops when the validation loss no longer falls, and the best adapter is what is left of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase

from training.models.base_model import BaseModel
from training.models.expert_schedules import schedule_after_it, shared_schedule
from training.models.finetune import Schedule, Tuned, finetune_lora, new_adapter
from training.models.loss_curves import plan_stopping, validation_loss
from training.models.stopping import BestKept
from training.progress import ignore_progress
from training.recipe import LoraSection
from training.recipe_stage_three import ExpertsSection
from training.rows.rendering import TokenRow

WEIGHTS = "adapter_model.safetensors"


def test_the_lowest_is_kept_and_patience_ends_it() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    best = BestKept(patience=2)
    stops = []
    for step, loss in enumerate([3.0, 2.0, 2.5, 1.0, 1.0, 1.5]):
        with torch.no_grad():
            model.weight.fill_(step)
        stops.append(best.look(step, loss, model))
    assert stops == [False, False, False, False, False, True]  # as low again is no lower
    best.restore(model)
    assert (best.step, model.weight.tolist()) == (3, [[3.0, 3.0]])


def test_where_the_rate_is_constant_the_mean_since_the_last_look_is_looked_at_and_kept() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    best = BestKept(averaged=True)
    seen = []
    for step in range(1, 9):
        with torch.no_grad():
            model.weight.fill_(float(step))
        best.count_step(model)
        if step % 4 == 0:
            with best.shown(model):
                seen.append(model.weight.item())
                assert best.look(step, abs(seen[-1] - 2.5), model) is False
            assert model.weight.item() == step  # training goes on from its own weights
    best.restore(model)
    assert (seen, best.step, model.weight.item()) == ([2.5, 6.5], 4, 2.5)


@pytest.fixture
def tuned_until(
    base: BaseModel, tokenizer: PreTrainedTokenizerBase, rows: list[TokenRow], tmp_path: Path
) -> object:
    def tune(schedule: Schedule, validation: list[TokenRow], name: str = "adapter") -> Tuned:
        model = new_adapter(base, LoraSection(rank=4, alpha=8, dropout=0.0), 0)
        tuned = finetune_lora(
            model, tokenizer, rows, schedule, 0, tmp_path / name, ignore_progress, validation=validation
        )
        if validation and schedule.keep == "best":
            # What is saved has the loss that was lowest on the way.
            assert tuned.kept_step is not None
            lowest = dict(tuned.validation_losses)[tuned.kept_step]
            assert lowest == min(loss for _, loss in tuned.validation_losses)
            assert validation_loss(model, tokenizer, validation, 4) == pytest.approx(lowest, rel=1e-4)
        return tuned

    return tune


def test_what_never_gets_better_is_its_start(tuned_until, rows: list[TokenRow], tmp_path: Path) -> None:
    """Trained by a rate that breaks it at once: it stops after two looks, and B is zero as it was."""
    tuned = tuned_until(Schedule(6, 10.0, 3, keep="best", patience=2), rows[:4])
    assert (tuned.kept_step, tuned.steps) == (0, 2)  # four steps an epoch: a look at every one
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    assert all(float(weight.abs().max()) == 0 for name, weight in weights.items() if ".lora_B." in name)
    assert tuned.row_visits == 6


def test_what_gets_better_runs_through_its_budget(tuned_until, rows: list[TokenRow]) -> None:
    tuned = tuned_until(Schedule(3, 3e-3, 3, rate="constant", keep="best", patience=2), rows[:4])
    assert (tuned.steps, tuned.kept_step) == (12, 12)
    assert tuned.validation_losses[-1][1] < tuned.validation_losses[0][1]


def test_without_being_asked_or_rows_the_last_adapter_stays(tuned_until, rows: list[TokenRow]) -> None:
    assert tuned_until(Schedule(2, 1e-3, 3), rows[:4]).kept_step is None
    assert tuned_until(Schedule(2, 1e-3, 3, keep="best"), [], "without-rows").kept_step is None


def test_it_is_looked_at_four_times_an_epoch_for_a_tenth_of_the_time(rows: list[TokenRow]) -> None:
    planned = plan_stopping(rows * 100, 300, 100, 16)
    assert sorted(planned.steps) == list(range(0, 301, 25))
    assert len(planned.rows) * len(planned.steps) / 3 <= 0.1 * 300 * 16 < (len(planned.rows) + 2) * 13 / 3
    assert sorted(plan_stopping(rows, 5, 2, 16).steps) == [0, 1, 2, 3, 4, 5]


def test_experts_and_one_lora_have_what_the_shared_adapter_left() -> None:
    section = ExpertsSection(epochs=4, batch_rows=10)
    shared = shared_schedule(section, 1e-3)
    assert (shared.epochs, shared.rate, shared.keep, shared.patience) == (3.0, "constant", "best", 2)
    after = schedule_after_it(section, 1e-3, rows=100, shared_visits=150)
    assert (after.epochs, after.rate, after.keep, after.patience) == (2.5, "cosine", "best", None)


def test_a_fixed_share_is_as_it_was() -> None:
    section = ExpertsSection(epochs=4, shared=0.25)
    assert shared_schedule(section, 1e-3) == Schedule(1.0, 1e-3, 16)
    assert schedule_after_it(section, 1e-3, rows=100, shared_visits=70) == Schedule(3.0, 1e-3, 16)
    assert shared_schedule(ExpertsSection(shared=0), 1e-3).epochs == 0
