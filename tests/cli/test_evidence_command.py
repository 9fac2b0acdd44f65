from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

NAMES = (
    "cluster-terms",
    "inference-cost",
    "sentence-pairs",
    "variance",
    "ablations",
    "cluster-cohesion",
    "curves",
    "regimes",
)


def _told(*arguments: str) -> str:
    """What a command that the user got wrong says; it must be one sentence, and no success."""
    done = CliRunner().invoke(app, ["evidence", *arguments])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    return " ".join(done.output.split())


def test_every_table_and_figure_has_a_command() -> None:
    shown = CliRunner().invoke(app, ["evidence", "--help"], env={"COLUMNS": "200"}).output
    assert [name for name in NAMES if name not in shown] == []


@pytest.mark.parametrize("name", ["cluster-terms", "inference-cost", "variance", "curves", "ablations"])
def test_a_missing_run_is_one_sentence_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    said = _told(name, str(tmp_path / "none"), "--output", str(tmp_path / "out"))
    assert "run.json can't be read" in said
    assert not list((tmp_path / "out").rglob("*.md"))


def test_a_missing_sts_file_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    said = _told(
        *("sentence-pairs", str(tmp_path / "none"), "--output", str(tmp_path / "out")),
        *("--pairs", str(tmp_path / "sts.jsonl")),
    )
    assert "sts.jsonl: it can't be read" in said


def test_ks_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    said = _told("cluster-cohesion", str(tmp_path), "--output", str(tmp_path / "out"), "--ks", "2,many")
    assert "--ks '2,many'" in said


def test_a_part_that_failed_makes_the_exit_code_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.evidence.exhibit import Exhibit, Table

    exhibit = Exhibit("x", "X", [Table("x", ("a",), [("1",)])], {}, failures=["Figure 5: no source."])
    monkeypatch.setattr("training.run.finished_run", lambda folder, narrator: None)
    monkeypatch.setattr("evaluation.evidence.cluster_terms.cluster_terms", lambda run: exhibit)
    done = CliRunner().invoke(app, ["evidence", "cluster-terms", "x", "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "Figure 5: no source." in done.output
    assert (tmp_path / "x.md").is_file()
