from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[2]
DEMO = ("--base-model", "demo/base", "--rows", "2000", "--set", "lora.rank=8", "--set", "data.max_length=128")


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_json_has_every_figure() -> None:
    done = CliRunner().invoke(
        app, ["plan", *DEMO, "--memory-budget", "8GiB", "--disk-budget", "1GB", "--json", "--no-trial"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["dimension"] > 0
    assert found["memory_budget_bytes"] == 8 << 30
    assert (found["cache"], found["gradients"], found["passes"]) == ("exact", "disk", 1)
    assert found["traffic_bytes"] == 0


def test_the_table_is_printed_even_if_nothing_fits() -> None:
    done = CliRunner().invoke(app, ["plan", *DEMO, "--memory-budget", "1MB", "--processes", "2"])
    assert done.exit_code == 2
    assert "98,560" in done.output
    assert "the memory budget is 1 MB. Raise --memory-budget" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rows", "2000"], "base.model: no base model is given"),
        ([*DEMO, "--memory-budget", "8XB"], "memory_budget: this is not a size"),
        (["--base-model", "no/such/folder/x", "--rows", "2000"], "no model config was found"),
        (["--base-model", "demo/base", "--rows", "20"], "20 rows are too few"),
        (["--base-model", "demo/base"], "no rows are given"),
    ],
)
def test_a_users_mistake_is_one_sentence(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(app, ["plan", *arguments])
    assert done.exit_code == 2
    assert says in done.output
    assert "Traceback" not in done.output


def test_where_the_weights_are_a_trial_says_the_time_of_every_stage() -> None:
    done = CliRunner().invoke(app, ["plan", *DEMO, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["no_trial"] is None
    assert {"warm-up", "gradients", "experts"} <= set(found["seconds"])
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert str(found["trial"]["threads"]) in found["trial"]["tried"]
    assert found["finetuning"]["16"]["micro_batch_rows"] == 16


@pytest.mark.parametrize("asked", [["--base-model", "recipes/shapes/smollm2-135m"], ["--no-trial"]])
def test_without_weights_there_is_no_trial_and_it_is_said(asked: list[str]) -> None:
    done = CliRunner().invoke(app, ["plan", *DEMO, *asked], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    assert "no trial: " + ("--no-trial" if asked == ["--no-trial"] else "there are no weights") in done.output
