"""kill -9 at any moment of `gradientspace evaluate`: the same table in the end, and nothing finished done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stand_ins.tiny_comparison import RECIPE, ROOT, Files

METHODS = "one-lora,gradientspace"
KILLED_AFTER = (2, 9)  # finished stages of about twenty
ENOUGH = 600.0  # seconds


def start(files: Files, output: Path, cache: Path) -> subprocess.Popen[str]:
    settings = files.settings() | {"compare.answered": 0}
    given = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    command = ["evaluate", str(RECIPE), "--output", str(output), "--seeds", "1", "--methods", METHODS, *given]
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "cli.main", *command],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(output: Path) -> dict[str, int]:
    """The finished stages, and when each was written; a folder with a dot is not finished, whatever is in it."""
    written = output.glob("seed-0/stages/[!.]*/stage.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in written}


@pytest.mark.slow  # four cold starts; test_comparison stops and goes on in one process
def test_a_killed_comparison_ends_in_the_same_table(files: Files, tmp_path: Path) -> None:
    whole, killed, cache = tmp_path / "whole", tmp_path / "killed", tmp_path / "cache"
    reference = start(files, whole, cache)
    assert reference.wait() == 0, reference.communicate()[0]
    known: dict[str, int] = {}
    for stages in KILLED_AFTER:
        with start(files, killed, cache) as process:
            deadline = time.monotonic() + ENOUGH
            while len(finished(killed)) < stages:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (killed / "results.json").exists()
        now = finished(killed)
        assert known.items() <= now.items(), "a finished stage was done again"
        known = now
    last = start(files, killed, cache)
    said, _ = last.communicate()
    assert last.returncode == 0, said
    assert known.items() <= finished(killed).items(), "a finished stage was done again"
    assert "done before, kept" in said
    assert table(killed) == table(whole)
    left = [path.name for path in (killed / "seed-0" / "stages").iterdir() if path.name.startswith(".")]
    assert left == [], "half-written stages were left behind"


def table(output: Path) -> object:
    return json.loads((output / "results.json").read_text())["table1"]
