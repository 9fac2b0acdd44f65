"""Cells, floors and failures, from made-up outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.methods.registry import METHODS, choose_methods
from evaluation.seed.drawn_rows import DrawnRow
from evaluation.seed.scoring import Scores
from evaluation.table_one.comparison import Comparison, Outcome, SeedFacts
from evaluation.table_one.markdown import table_markdown
from evaluation.table_one.recipe import EvaluationRecipe
from evaluation.table_one.table import table_one
from tests.stand_ins.tiny_model import token_row
from training.recipe import RECIPES, read_recipe_of

TITLES = {method.name: method.title for method in METHODS}


def row(number: int, source: str) -> DrawnRow:
    made = token_row(3, 4, number, source)
    return DrawnRow({"source": source}, made, made.input_ids[:3], "", "7" if source == "sums" else None)


def outcome(loss: float, right: int, exact: list[bool]) -> Outcome:
    scores = Scores(np.full(8, 4 * loss), np.full(8, 4), np.full(8, right))
    return Outcome({"all": scores}, {"all": np.array(exact)}, 30, 1e-3, 0.75)


@pytest.fixture
def found() -> Comparison:
    rows = [row(number, "sums" if number < 4 else "tales") for number in range(8)]
    made = Comparison(choose_methods("zero-shot,one-lora"), rows, np.arange(3), "vllm")
    facts = {"contaminated": {"sums": 1, "tales": 0}, "commonest_answer": {"sums": "12"}}
    facts |= {"train_rows": 30, "validation_rows": 5, "by_source": {}, "commonest_token": {}}
    made.seeds = {seed: SeedFacts(**facts) for seed in (0, 1)}  # type: ignore[arg-type]
    made.outcomes["zero-shot"] = {seed: outcome(3.0, 1, [False] * 3) for seed in (0, 1)}
    made.outcomes["one-lora"] = {seed: outcome(2.0 + seed, 2, [False] * 3) for seed in (0, 1)}
    return made


def markdown(found: Comparison, table: dict[str, Any]) -> str:
    results = table | {
        "command": "gradientspace evaluate",
        "commit": "c0ffee",
        "machine": "m",
        "seeds": [0, 1],
    }
    return table_markdown(results, TITLES)


def test_a_cell_is_mean_and_sample_deviation_of_the_seeds(found: Comparison) -> None:
    table = table_one(found, 100)
    cell = table["table1"]["one-lora"]["loss/tales"]
    assert cell["runs"] == [2.0, 3.0]
    assert cell["mean"] == 2.5
    assert cell["std"] == pytest.approx(0.5**0.5)
    assert "| One LoRA | 30 | 0.001 |  | 75.0 %, 75.0 % |" in markdown(found, table)
    assert "| One LoRA |  | 2.5000 ± 0.7071 | 2.5000 ± 0.7071 | 2.5000 ± 0.7071 |" in markdown(found, table)


def test_a_metric_that_nobody_lifts_off_its_floor_has_no_signal(found: Comparison) -> None:
    table = table_one(found, 100)
    assert table["table1"]["one-lora"]["exact_match/sums"]["note"] == "no signal"
    assert "| Zero-shot |  | no signal |" in markdown(found, table)
    assert "note" not in table["table1"]["one-lora"]["token_accuracy/sums"]
    found.outcomes["one-lora"] = {seed: outcome(2.0, 2, [True] * 3) for seed in (0, 1)}
    lifted = table_one(found, 100)["table1"]
    assert "note" not in lifted["zero-shot"]["exact_match/sums"]


def test_the_floor_is_what_the_commonest_training_answer_scores(found: Comparison) -> None:
    for facts in found.seeds.values():
        facts.commonest_answer["sums"] = "7"
    found.outcomes["one-lora"] = {seed: outcome(2.0, 2, [True] * 3) for seed in (0, 1)}
    cell = table_one(found, 100)["table1"]["one-lora"]["exact_match/sums"]
    assert cell["floor"] == 1.0
    assert cell["note"] == "no signal"


def test_failures_stand_in_the_table(found: Comparison) -> None:
    del found.outcomes["zero-shot"]
    found.failed["zero-shot"] = {0: "out of rows", 1: "out of luck"}
    found.failed["one-lora"] = {2: "a loss of nan"}
    found.missing["poems"] = "no test row"
    text = markdown(found, table_one(found, 100))
    assert "| Zero-shot |  | failed: out of rows (seed 0); out of luck (seed 1) |" in text
    assert "| One LoRA | failed: a loss of nan (seed 2) | 2.5000" in text
    assert "- poems: failed: no test row" in text
    assert not found.whole


def test_differences_are_of_the_seeds_that_both_have(found: Comparison) -> None:
    del found.outcomes["zero-shot"][1]
    table = table_one(found, 100)
    against = table["against"]
    drawn = against["loss"]["zero-shot"]["mean"]
    assert table["differences"]["zero-shot"]["loss_less_one_lora"] == [
        drawn["mean"],
        drawn["low"],
        drawn["high"],
    ]
    assert "one-lora" not in table["differences"]
    assert against["method"] == "one-lora"
    assert against["loss"]["zero-shot"]["mean"]["mean"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("table1*.yaml")))
def test_every_recipe_of_a_table_is_one(name: str) -> None:
    given = {
        "data.files": ["train.jsonl"],
        "test.files": ["test.jsonl"],
        "base.model": "a/base",
        "output": "runs/a",
    }
    recipe = read_recipe_of(EvaluationRecipe, Path(name), given, [])
    assert recipe.rows.per_source
    assert set(recipe.compare.learning_rates) <= {5e-4, 1e-3, 2e-3, 4e-3, 8e-3}
