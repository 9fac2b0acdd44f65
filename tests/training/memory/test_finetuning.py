"""An optimiser step under a memory budget: whole, in pieces, with checkpointing, or refused."""

from __future__ import annotations

import pytest

from tests.stand_ins.tiny_model import ROOT
from training.errors import TrainingError
from training.memory.finetuning import FineTuning, StepFit, fit_step
from training.memory.machine import Budget
from training.memory.model_shape import read_shape
from training.recipe import LoraSection, TrainSection

MB = 1_000_000


@pytest.fixture(scope="module")
def given() -> FineTuning:
    return FineTuning(
        read_shape(str(ROOT / "demo" / "base"), LoraSection(rank=8)),
        weight_bytes=4,
        dropout=0.05,
        longest=256,
        longest_completion=128,
    )


def fit(given: FineTuning, megabytes: float, batch_rows: int = 16, **section: object) -> StepFit:
    return fit_step(
        given, TrainSection.model_validate(section), batch_rows, Budget(int(megabytes * MB), 0, on_cpu=True)
    )


@pytest.fixture(scope="module")
def peaks(given: FineTuning) -> dict[str, float]:
    """In MB: whole, one row, one row with checkpointing."""
    one = fit(given, 1e6, micro_batch_rows=1).peak_bytes / MB
    return {
        "whole": fit(given, 1e6).peak_bytes / MB,
        "one": one,
        "least": fit(given, 1e6, micro_batch_rows=1, gradient_checkpointing="on").peak_bytes / MB,
    }


def test_pieces_and_checkpointing_take_less(peaks: dict[str, float]) -> None:
    assert peaks["least"] < peaks["one"] < peaks["whole"] / 4


def test_a_step_is_whole_where_it_fits_and_in_as_few_pieces_as_fit_elsewhere(
    given: FineTuning, peaks: dict[str, float]
) -> None:
    whole, one, least = peaks["whole"], peaks["one"], peaks["least"]
    assert fit(given, whole).micro_batch_rows == 16
    assert fit(given, whole - 1).micro_batch_rows == 8
    between = fit(given, one + 0.3 * (whole - one))
    assert (between.micro_batch_rows, between.gradient_checkpointing) == (4, False)
    assert fit(given, one).micro_batch_rows == 1
    last = fit(given, (one + least) / 2)
    assert last.gradient_checkpointing
    assert last.peak_bytes <= (one + least) / 2 * MB


def test_what_the_recipe_says_is_kept(given: FineTuning) -> None:
    assert fit(given, 1e6, micro_batch_rows=5).micro_batch_rows == 4  # the pieces of a step are alike
    assert fit(given, 1e6, micro_batch_rows=100).micro_batch_rows == 16
    assert fit(given, 1e6, batch_rows=7, micro_batch_rows=3).micro_batch_rows == 1
    assert fit(given, 1e6, gradient_checkpointing="on").gradient_checkpointing


def test_what_does_not_fit_is_refused_with_the_figure_and_the_way_out(
    given: FineTuning, peaks: dict[str, float]
) -> None:
    with pytest.raises(TrainingError, match=r"Fine-tuning needs at least .* Raise --memory-budget"):
        fit(given, peaks["least"] - 1)
    with pytest.raises(TrainingError, match=r"gradient_checkpointing=auto"):
        fit(given, (peaks["least"] + peaks["one"]) / 2, gradient_checkpointing="off")
