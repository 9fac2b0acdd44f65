"""What a newcomer's terminal of 80 columns shows: whole tables, and what came of it in a line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.route import _print_table
from tests.stand_ins.small_report import small_report
from training.report.report import write_report

ROOT = Path(__file__).parents[2]
NARROW = {"COLUMNS": "80", "TERM": "dumb"}


def _lines(text: str) -> list[str]:
    assert max(map(len, text.splitlines())) <= 80
    return text.splitlines()


@pytest.mark.parametrize(
    "names",
    [
        [f"expert-{label}" for label in range(10)],
        ["mathematics-of-grade-school-word-problems", "x" * 63],
        ["a"],
    ],
)
def test_where_a_prompt_goes_fits_80_columns_and_no_name_is_cut(
    names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    share = 1 / len(names)
    row: dict[str, Any] = {
        "text": "a prompt that is longer than any column could be, \n" * 9,
        "expert": names[0],
        "reason": "routed",
        "confidence": share,
        "by": "embedding",
        "probabilities": dict.fromkeys(names, share),
    }
    _print_table([row], tuple(names))
    lines = _lines(capsys.readouterr().out)
    column = "".join(line.split("│")[2].strip() for line in lines if line.startswith("│"))
    assert column == names[0]


def test_what_diagnose_says_fits_80_columns_and_ends_in_one_line(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "{n} plus 4?", "completion": "{n + 4}."}}\n' for n in range(4)))
    base = ROOT / "demo" / "base"
    asked = ["diagnose", "--base-model", str(base), "--data", str(rows), "--rows", "2"]
    done = CliRunner().invoke(app, asked, env=NARROW)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    table = [line for line in lines if line[:1] in "┏┃┡│└"]
    assert max(map(len, table)) <= 80
    # A line each: no cell is folded.
    assert len([line for line in table if line.startswith("│")]) >= 17
    assert lines[-1].startswith("Yes: this model's per-row gradients are exact; ")
    assert lines[-1].endswith(" not measured.")


def test_training_ends_with_its_report_and_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "run" / "bundle"
    verdict = write_report(bundle / "report", small_report())["verdict"]
    manifest = SimpleNamespace(
        experts=[1, 2], label_order=("a", "b"), router=SimpleNamespace(kind="semantic")
    )
    monkeypatch.setattr(
        "training.pipeline.train", lambda *_: SimpleNamespace(folder=bundle, manifest=manifest)
    )
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["train", "recipes/demo.yaml", "--output", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    said = done.stderr.splitlines()
    assert any(str(bundle / "report" / "report.html") in line for line in said)
    assert any(verdict["headline"] in line for line in said)
