"""`gradientspace evaluate` from end to end on a tiny model: the table, a rerun, and everything that goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from cli.main import app
from evaluation.answers.engines import TransformersEngine
from evaluation.methods.kmeans import KMeansOnEmbeddings
from evaluation.methods.one_lora import OneLora
from evaluation.methods.registry import METHODS, choose_methods
from evaluation.table_one import comparison
from tests.stand_ins.tiny_comparison import RECIPE, SOURCES, Files
from training.errors import TrainingError
from training.stages.store import StageStore

RUN = [method.name for method in METHODS if method.name not in ("share-50", "share-75")]
Metrics = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        comparison, "engine_for", lambda base, tokenizer, log: TransformersEngine(base, tokenizer)
    )


def evaluate(files: Files, output: Path, *options: str, seeds: int = 1, **changes: Any) -> Result:
    settings = files.settings() | {key.replace("__", "."): value for key, value in changes.items()}
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = ["evaluate", str(RECIPE), "--output", str(output), "--seeds", str(seeds), *options, *given]
    return CliRunner().invoke(app, command)


def results(output: Path) -> dict[str, Any]:
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def done(files: Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind of method, one seed; two of the three shares only cost time."""
    output = tmp_path_factory.mktemp("table") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            comparison, "engine_for", lambda base, tokenizer, log: TransformersEngine(base, tokenizer)
        )
        ended = evaluate(files, output, "--methods", ",".join(RUN))
    assert ended.exit_code == 0, ended.output
    assert (output / "table1.md").read_text().strip() == ended.stdout.strip()
    return output


def test_every_method_has_every_metric_of_every_source(done: Path) -> None:
    table: dict[str, Metrics] = results(done)["table1"]
    assert {key.partition(",")[0] for key in table} == set(RUN)
    assert {key for key in table if key.startswith("gradientspace")} == {
        "gradientspace, oracle",
        "gradientspace, router",
    }
    wanted = {
        f"{metric}/{source}" for metric in ("loss", "token_accuracy", "exact_match") for source in SOURCES
    }
    for metrics in table.values():
        assert set(metrics) == wanted | {"loss/mean over sources"}
        losses = [metrics[f"loss/{source}"]["mean"] for source in SOURCES]
        assert metrics["loss/mean over sources"]["mean"] == pytest.approx(sum(losses) / 3)
    assert len({metrics["loss/mean over sources"]["mean"] for metrics in table.values()}) > 8


def test_training_lowers_the_loss_of_what_was_trained(done: Path) -> None:
    table = results(done)["table1"]
    for name in ("full", "one-lora"):
        assert (
            table[name]["loss/mean over sources"]["mean"]
            < table["zero-shot"]["loss/mean over sources"]["mean"]
        )


def test_every_method_saw_as_many_rows(done: Path) -> None:
    found = results(done)
    trained = found["rows"]["0"]["train_rows"]
    assert trained == 3 * 12 - 6
    visits = {name: runs[0] for name, runs in found["row_visits"].items()}
    assert visits.pop("zero-shot") == 0
    for name in [
        name for name in visits if name.startswith(("share", "kmeans-share", "elrea", "readable", "served"))
    ]:
        if name != "elrea-paper":  # a part of an epoch ends with a whole batch in every cluster
            assert abs(visits.pop(name) - trained) <= 4 * 3
    assert set(visits.values()) == {trained}


def test_rows_before_the_first_are_not_used(done: Path, files: Files) -> None:
    used = (done / "seed-0" / "rows.jsonl").read_text().splitlines()
    assert len(used) == 36
    for path in files.train:
        assert not set(used) & set(path.read_text().splitlines()[:2])


def test_a_rerun_does_nothing_again_and_finds_the_same(
    done: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = tmp_path / "run"
    shutil.copytree(done, again)

    def never(*arguments: object) -> None:
        raise AssertionError("a stage was done again")

    monkeypatch.setattr(StageStore, "_do", never)
    ended = evaluate(files, again, "--methods", ",".join(RUN))
    assert ended.exit_code == 0, ended.output
    assert results(again)["table1"] == results(done)["table1"]


def test_every_method_is_tuned_on_its_own(done: Path, files: Files, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(done, again)
    trained = {"one-lora", "gradientspace", "share-25"}
    ended = evaluate(files, again, "--methods", ",".join(trained), compare__learning_rates=[1e-3, 2e-2])
    assert ended.exit_code == 0, ended.output
    found = results(again)
    tried = found["validation_loss_by_rate"]
    assert set(tried) == trained
    for name, losses in tried.items():
        assert list(losses) == ["0.001", "0.02"]
        assert found["learning_rates"][name] == [float(min(losses, key=losses.__getitem__))]
    assert len({tuple(losses.values()) for losses in tried.values()}) == len(trained)


def test_a_second_seed_draws_other_rows_and_every_cell_gets_a_spread(
    done: Path, files: Files, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(done, again)
    ended = evaluate(files, again, "--methods", "one-lora,zero-shot", seeds=2)
    assert ended.exit_code == 0, ended.output
    found = results(again)
    assert found["seeds"] == [0, 1]
    cell = found["table1"]["one-lora"]["loss/story"]
    assert len(cell["runs"]) == 2
    assert cell["std"] == pytest.approx(abs(cell["runs"][0] - cell["runs"][1]) / 2**0.5)
    assert found["against"]["loss"]["zero-shot"]["story"]["low"] > 0
    assert " ± " in ended.stdout
    drawn = [set((again / f"seed-{seed}" / "rows.jsonl").read_text().splitlines()) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("error", [TrainingError("too few rows"), RuntimeError("too few rows")])
def test_a_method_that_fails_is_said_and_stops_no_other(
    done: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    again = tmp_path / "run"
    shutil.copytree(done, again)

    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr(KMeansOnEmbeddings, "fit", fail)
    ended = evaluate(files, again, "--methods", "one-lora,kmeans,gradientspace")
    assert ended.exit_code == 1
    assert isinstance(ended.exception, SystemExit)  # no traceback
    row = next(line for line in ended.stdout.splitlines() if line.startswith("| K-means"))
    assert "failed: " in row
    assert "too few rows (seed 0)" in row
    table = results(again)["table1"]
    assert "too few rows" in table["kmeans"]["failed"]["0"]
    assert "loss/story" in table["gradientspace, router"]


def test_a_stop_in_the_middle_loses_nothing_that_was_done(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(OneLora, "fit", stop)
        ended = evaluate(files, tmp_path, "--methods", "zero-shot,one-lora")
    assert ended.exit_code == 130
    assert "Stopped" in ended.output
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "seed-0" / "stages").glob("*/stage.json")}
    assert any("zero-shot-test" in str(path) for path in before)
    ended = evaluate(files, tmp_path, "--methods", "zero-shot,one-lora")
    assert ended.exit_code == 0, ended.output
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "one-lora" in results(tmp_path)["table1"]


def test_a_missing_source_is_said_and_the_others_go_on(files: Files, tmp_path: Path) -> None:
    train, test = [str(path) for path in files.train], [str(path) for path in files.test]
    ended = evaluate(
        files,
        tmp_path,
        *("--methods", "zero-shot"),
        data__files=[*train, "no_such_train.jsonl"],
        test__files=["no_such_test.jsonl", *test[1:]],
    )
    assert ended.exit_code == 1
    for line in (
        "- no_such_train: failed: no_such_train.jsonl: there is no such file.",
        "- no_such_test: failed: no_such_test.jsonl: there is no such file.",
        "- arithmetic: failed: no test row is of the source 'arithmetic'",
    ):
        assert line in ended.stdout
    assert "loss/story" in results(tmp_path)["table1"]["zero-shot"]


def test_no_test_row_at_all_is_one_sentence(files: Files, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    ended = evaluate(files, tmp_path / "run", test__files=[str(empty)])
    assert ended.exit_code == 2
    assert "There is no test row to judge by" in ended.output
    assert not (tmp_path / "run" / "results.json").exists()


def test_an_unknown_method_is_one_sentence(files: Files, tmp_path: Path) -> None:
    ended = evaluate(files, tmp_path, "--methods", "one-lora,magic")
    assert ended.exit_code == 2
    assert "'magic' is no method" in ended.output


def test_all_means_all_and_the_order_is_the_tables() -> None:
    assert choose_methods("all") == list(METHODS)
    assert [method.name for method in choose_methods("gradientspace,zero-shot")] == [
        "zero-shot",
        "gradientspace",
    ]


def test_the_committed_recipe_is_the_one_that_was_run_here() -> None:
    committed = yaml.safe_load(RECIPE.read_text())
    assert committed["rows"]["first"] == 2001
    assert "files" not in committed["data"]  # they lie on the user's machine
