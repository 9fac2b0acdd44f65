from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.demo_skills import main
from demo.rows import SKILLS
from tests.stand_ins.commands import run_command

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_of_the_readme(demo_bundle: Path, tmp_path: Path) -> None:
    figures = tmp_path / "table.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.demo_skills", str(demo_bundle.parent)),
            *("--demo", "tales", "--per-skill", "10", "--json", str(figures)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "| skill (held-out rows) | base | one LoRA | auto | experts by true skill |"
    )
    record = json.loads(figures.read_text())
    assert set(record["accuracy"]) == {*SKILLS, "all"}
    for system in ("base", "one LoRA", "auto", "experts by true skill"):
        assert record["accuracy"]["all"][system]["total"] == 10 * len(SKILLS)
    assert all(sum(counts.values()) == 10 for counts in record["answered_by"].values())
    # The base was never shown the chat; whoever was tuned must do better.
    assert (
        record["accuracy"]["all"]["experts by true skill"]["right"]
        > record["accuracy"]["all"]["base"]["right"]
    )


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    done = run_command(main, str(tmp_path))
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)  # no traceback
    assert done.stdout == ""
    assert str(tmp_path) in done.stderr


def test_a_demo_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    done = run_command(main, str(tmp_path), "--demo", "bakery")
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.stderr == "--demo 'bakery': there is no such demo. There are: tales, shop.\n"
