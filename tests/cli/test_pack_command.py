from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).parents[2]
BASE = ("--base-model", "demo/base")
TWO = ("--adapter", "a=x", "--adapter", "b=y")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([*BASE, "--adapter", "math"], "--adapter 'math' is not of the form NAME=FOLDER"),
        ([*BASE, "--adapter", "=x"], "--adapter '=x' is not of the form"),
        ([*BASE, "--adapter", "a=x", "--adapter", "a=y"], "--adapter a: this name is given twice"),
        ([*BASE, *TWO, "--dtype", "float16"], "--dtype float16: give auto, float32 or bfloat16"),
        (
            ["--base-model", "/no/such", *TWO, "--rows", "r.jsonl"],
            "--base-model: '/no/such' is neither a folder",
        ),
        ([*BASE, *TWO, "--rows", "r.jsonl"], "x: there is no such folder. Give the folder that PEFT"),
        ([*BASE, *TWO], "Give --rows with labels"),
    ],
)
def test_a_users_mistake_is_one_sentence(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = CliRunner().invoke(app, ["pack", *arguments, "--output", str(tmp_path / "bundle")])
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Recipe" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_training_calls_a_key_is_a_flag_here() -> None:
    from cli.pack import _with_flags

    said = (
        "router.encoder: 'x' can't be used. Use --set router.encoder=package:y, or --set router.max_tokens=64"
    )
    assert _with_flags(said) == "--encoder: 'x' can't be used. Use --encoder package:y, or --max-tokens 64"
