"""kill -9 at any moment of Stage II: the same partition in the end, and little done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from demo.rows import make_rows
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import ROOT

KILLS = 12
CADENCE = 0.3  # seconds between checkpoints
STEP_ROWS = 64  # a piece of the store, of the assignment; a window of calibration here
CALL = 0.003  # seconds that every step is held up, so that kills meet it at work


@dataclass
class Server:
    """A process with everything imported, which forks one that runs Stage II when told to."""

    process: subprocess.Popen[str]

    def start(self, given: dict[str, Any], log: Path) -> int:
        assert self.process.stdin is not None
        order = {"given": given, "log": str(log), "seconds_per_call": CALL}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def exit_code(self) -> int:
        return int(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(tmp_path_factory.mktemp("cache")),
        "PYTHONPATH": str(ROOT),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stand_ins.stage_two_run"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT,
    ) as process:  # fmt: skip
        started = Server(process)
        assert started._line() == "ready\n"
        yield started
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def given(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in make_rows(45, 0, "train")))
    return {
        "data.files": [str(folder / "rows.jsonl")],
        "base.model": str(base_folder),
        "base.dtype": "float32",
        "lora.rank": 4,
        "lora.alpha": 8,
        "split.validation_at_least": 16,
        "split.probe_at_least": 48,
        "warmup.at_least_steps": 10,
        "warmup.learning_rate": 5e-3,
        "clusters.k": 3,
        "clusters.n_init": 2,
        "clusters.max_epochs": 3,
        "clusters.max_drift": 1e-12,
        "clusters.min_rows": 1,
        "clusters.checkpoint_seconds": CADENCE,
        "clusters.micro_batch_tokens": 256,
        "router.encoder": str(save_encoder(folder / "encoder")),
        "router.max_tokens": 64,
        "output": str(folder / "run"),
    }


@dataclass(frozen=True)
class Step:
    """One line of a log: which bar moved when, how many of its rows were done, in this process and in all."""

    at: float
    stage: str
    done: int
    total: int

    def in_all(self, whole: int) -> int:
        """Rows done in all: a store that is being filled counts only what is missing."""
        return self.done + whole - self.total


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
        """Comparable: the stage's number, and the rows done in it."""
        return self.stages.index(step.stage), step.in_all(self.totals[step.stage])

    def seconds_lost(self, killed: list[Step], after: list[Step]) -> float:
        """How long before the kill the last run stood where the next one began."""
        first = next((step for step in after if step.stage == killed[-1].stage), None)
        if first is None:
            return 0.0  # that stage was finished after all
        whole = self.totals[first.stage]
        # A store counts what is missing; the others' first step is the jump to where they go on.
        begun = whole - first.total if first.total != whole else first.done
        stood = [step.at for step in killed if step.stage == first.stage and step.in_all(whole) <= begun]
        return killed[-1].at - (stood[-1] if stood else next(s.at for s in killed if s.stage == first.stage))

    def seconds_of_a_step(self, killed: list[Step]) -> float:
        """The longest that the killed run took for the rows that are worked on between two saves."""
        longest = 0.0
        for first in killed:
            later = (s for s in killed if s.stage == first.stage and s.done >= first.done + STEP_ROWS)
            longest = max(longest, next(later, killed[-1]).at - first.at)
        return longest


@pytest.mark.parametrize(("gradients", "cache"), [("disk", "exact"), ("recompute", "ring")])
def test_twelve_kills_change_nothing(
    gradients: str, cache: str, server: Server, given: dict[str, Any], tmp_path: Path, record_property: Any
) -> None:
    given = given | {"clusters.gradients": gradients, "clusters.cache": cache}
    server.start(given | {"output": str(tmp_path / "whole")}, tmp_path / "whole.log")
    assert server.exit_code() == 0
    given["output"] = str(tmp_path / "killed")
    undisturbed = Undisturbed(steps(tmp_path / "whole.0.log"))
    moments = sorted(random.Random(7).sample(undisturbed.run[:-3], KILLS), key=undisturbed.place)
    killed: list[Step] = []
    met: list[str] = []
    lost: list[float] = []
    for number in range(KILLS + 1):
        log = tmp_path / f"{number}.0.log"
        child = server.start(given, tmp_path / f"{number}.log")
        if number < KILLS:
            place = undisturbed.place(moments[number])
            while (seen := last_step(log)) is None or undisturbed.place(seen) < place:
                time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
        assert server.exit_code() == (-signal.SIGKILL if number < KILLS else 0)
        now = steps(log)
        if killed:
            lost.append(undisturbed.seconds_lost(killed, now))
            # The cadence, the rows that were under way, and a save.
            assert lost[-1] <= CADENCE + undisturbed.seconds_of_a_step(killed) + 0.3
        killed = now
        met.append(now[-1].stage)
    record_property("killed in", met[:-1])
    record_property("seconds lost", lost)
    print(
        f"{gradients}, {cache}: killed in {sorted(set(met[:-1]))}; lost at most {max(lost):.2f} s of {CADENCE}"
    )
    assert len(set(met[:-1])) >= 2, "all kills met one stage"
    for stage, file in (("start", "centroids"), ("centroids", "centroids")):
        one, other = (
            load_file(tmp_path / run / "stages" / stage / f"{file}.safetensors")[file]
            for run in ("whole", "killed")
        )
        assert one.equal(other), stage
    table = "stages/assignment/assignments.parquet"
    assert (tmp_path / "killed" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    one, other = (
        json.loads((tmp_path / run / "stages/orders/stage.json").read_text())["facts"]
        for run in ("whole", "killed")
    )
    assert one == other
    assert not (tmp_path / "killed" / "gradients").exists()
    assert not list((tmp_path / "killed" / "stages").glob(".*"))
