"""kill -9 at any moment of Stage II: the same partition in the end, and little done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.stand_ins.forked import exit_code, forked
from tests.stand_ins.stage_two_run import Step, run_stage_two
from tests.stand_ins.tiny_line import TinyRun

KILLS = 12
STEP_ROWS = 64  # a piece of the store, of the assignment; a window of calibration here
CALL = 0.003  # seconds that every step is held up, so that kills from outside meet it at work
WAYS = [("disk", "exact"), ("recompute", "ring")]


@pytest.fixture(scope="module")
def given(first: TinyRun) -> dict[str, Any]:
    return first.given | {
        "clusters.k": 3,
        "clusters.max_epochs": 3,
        "clusters.max_drift": 1e-12,
        "clusters.checkpoint_seconds": 0,  # after every piece
        "clusters.micro_batch_tokens": 256,
    }


def steps(log: Path) -> list[Step]:
    lines = log.read_text().splitlines() if log.exists() else []
    found = [Step(*json.loads(line)) for line in lines if line.endswith("]")]
    return [step for step in found if step.stage.startswith("Stage II")]


def last_step(log: Path) -> Step | None:
    """The newest whole line, without reading the others: this is asked many times a second."""
    if not log.exists():
        return None
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 400))
        lines = file.read().decode().split("\n")
    found = [Step(*json.loads(line)) for line in lines[1:] if line.endswith("]")]
    return found[-1] if found and found[-1].stage.startswith("Stage II") else None


@dataclass
class Undisturbed:
    """The run that nobody kills: its steps say where another one stands."""

    run: list[Step]

    def __post_init__(self) -> None:
        self.totals = {step.stage: step.total for step in self.run}
        self.stages = list(self.totals)

    def place(self, step: Step) -> tuple[int, int]:
        """Comparable: the stage's number, and the rows left in it, most first."""
        return self.stages.index(step.stage), -step.left

    def one_of_each_stage(self) -> list[Step]:
        """A step in the middle of every stage."""
        found = []
        for stage in self.stages:
            ours = [step for step in self.run if step.stage == stage]
            found.append(ours[len(ours) // 2])
        return found

    def rows_lost(self, killed: list[Step], after: list[Step]) -> int:
        """How many rows that were done before the kill were done again afterwards."""
        first = next((step for step in after if step.stage == killed[-1].stage), None)
        if first is None:
            return 0  # that stage was finished after all
        # A store counts what is missing; the others' first step is the jump to where they go on.
        left = first.total if first.total != self.totals[first.stage] else first.left
        return left - killed[-1].left


def whole_run(given: dict[str, Any], first: TinyRun, folder: Path) -> Undisturbed:
    given = given | {"output": str(first.warmed_up(folder / "whole"))}
    process = forked(run_stage_two, given, folder / "whole.log", log=folder / "whole.said")
    assert exit_code(process) == 0, (folder / "whole.said").read_text()
    return Undisturbed(steps(folder / "whole.0.log"))


def is_the_same_in_the_end(folder: Path, undisturbed: Undisturbed, runs: Sequence[Path]) -> None:
    """The killed run ended as the whole one, and no run did more than a step of the one before again."""
    logs = [steps(log) for log in runs]
    lost = [undisturbed.rows_lost(killed, after) for killed, after in pairwise(logs)]
    print(f"killed in {[log[-1].stage for log in logs[:-1]]}; rows done again: {lost}")
    assert max(lost) <= STEP_ROWS
    for stage, file in (("start", "centroids"), ("centroids", "centroids")):
        one, other = (
            load_file(folder / run / "stages" / stage / f"{file}.safetensors")[file]
            for run in ("whole", "killed")
        )
        assert one.equal(other), stage
    table = "stages/assignment/assignments.parquet"
    assert (folder / "killed" / table).read_bytes() == (folder / "whole" / table).read_bytes()
    one, other = (
        json.loads((folder / run / "stages/orders/stage.json").read_text())["facts"]
        for run in ("whole", "killed")
    )
    assert one == other
    assert not (folder / "killed" / "gradients").exists()
    assert not list((folder / "killed" / "stages").glob(".*"))


@pytest.mark.parametrize(("gradients", "cache"), WAYS)
def test_a_kill_in_every_stage_changes_nothing(
    gradients: str, cache: str, given: dict[str, Any], first: TinyRun, tmp_path: Path
) -> None:
    given = given | {"clusters.gradients": gradients, "clusters.cache": cache}
    undisturbed = whole_run(given, first, tmp_path)
    moments = undisturbed.one_of_each_stage()
    given["output"] = str(first.warmed_up(tmp_path / "killed"))
    for number, moment in enumerate([*moments, None]):
        log, said = tmp_path / f"{number}.log", tmp_path / f"{number}.said"
        process = forked(run_stage_two, given, log, 0.0, moment, log=said)
        assert exit_code(process) == (-signal.SIGKILL if moment else 0), said.read_text()
    logs = [tmp_path / f"{number}.0.log" for number in range(len(moments) + 1)]
    assert [steps(log)[-1].stage for log in logs[:-1]] == undisturbed.stages
    is_the_same_in_the_end(tmp_path, undisturbed, logs)


@pytest.mark.slow
@pytest.mark.parametrize(("gradients", "cache"), WAYS)
def test_twelve_kills_from_outside_change_nothing(
    gradients: str, cache: str, given: dict[str, Any], first: TinyRun, tmp_path: Path
) -> None:
    given = given | {"clusters.gradients": gradients, "clusters.cache": cache}
    undisturbed = whole_run(given, first, tmp_path)
    given["output"] = str(first.warmed_up(tmp_path / "killed"))
    logs = []
    moments = sorted(random.Random(7).sample(undisturbed.run[:-3], KILLS), key=undisturbed.place)
    for number, moment in enumerate([*moments, None]):
        log, said = tmp_path / f"{number}.0.log", tmp_path / f"{number}.said"
        process = forked(run_stage_two, given, tmp_path / f"{number}.log", CALL, log=said)
        if moment:
            while process.is_alive():
                seen = last_step(log)
                if seen is not None and undisturbed.place(seen) >= undisturbed.place(moment):
                    break
                time.sleep(0.01)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        code = exit_code(process)
        assert code == (-signal.SIGKILL if moment else 0), said.read_text()
        logs.append(log)
    assert len({steps(log)[-1].stage for log in logs[:-1]}) >= 2, "all kills met one stage"
    is_the_same_in_the_end(tmp_path, undisturbed, logs)
