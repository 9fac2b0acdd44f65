"""Two processes: the same partition as one, rows shared out, a lost one named; at last under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.stand_ins.forked import exit_code, forked
from tests.stand_ins.live_server import free_port
from tests.stand_ins.stage_two_run import run_stage_two
from tests.stand_ins.tiny_line import TinyRun
from tests.stand_ins.tiny_model import ROOT
from tests.stand_ins.two_processes import run_watched

ROWS = 104  # of the tiny run's training rows
BATCHES = 7  # of 16


@pytest.fixture(scope="module")
def given(first: TinyRun) -> dict[str, Any]:
    return first.given | {"clusters.k": 3, "clusters.checkpoint_seconds": 0}


@dataclass(frozen=True)
class Ended:
    """How the processes ended, and what they said."""

    codes: tuple[int | None, ...]
    said: str


Launcher = Callable[..., Ended]


def launch(given: dict[str, Any], log: Path, *lost: int) -> Ended:
    """As torchrun, without its seconds of imports: two processes that know of each other by the same variables."""
    world = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    said = [log.with_name(f"{log.stem}.{rank}.said") for rank in (0, 1)]
    processes = [
        forked(
            run_watched, given, log, *lost, log=said[rank],
            environment=world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    return Ended(tuple(map(exit_code, processes)), "\n".join(file.read_text() for file in said))


def torchrun(given: dict[str, Any], log: Path, *lost: int) -> Ended:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(log.parent / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "tests.stand_ins.two_processes", json.dumps(given), str(log), *map(str, lost)),
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Ended((done.returncode,), done.stderr)


def labels(run: Path) -> np.ndarray:
    return pq.read_table(run / "stages/assignment/assignments.parquet")["label"].to_numpy()


def centroids(run: Path) -> Any:
    return load_file(run / "stages/centroids/centroids.safetensors")["centroids"]


def batches(log: Path, rank: int) -> list[list[int]]:
    return [json.loads(line) for line in log.with_name(f"{log.stem}.{rank}.batches").read_text().splitlines()]


@pytest.mark.parametrize(("gradients", "cache"), [("disk", "ring"), ("recompute", "exact")])
def test_two_processes_find_what_one_finds(
    gradients: str, cache: str, given: dict[str, Any], first: TinyRun, tmp_path: Path
) -> None:
    given = given | {"clusters.gradients": gradients, "clusters.cache": cache}
    one, two = (given | {"output": str(first.warmed_up(tmp_path / name))} for name in ("one", "two"))
    run_stage_two(one, tmp_path / "one.log")
    done = launch(two, tmp_path / "two.log")
    assert done.codes == (0, 0), done.said[-3000:]
    # World size 2, and no row of a logical batch is both's, nor nobody's.
    # (What comes after two epochs are the other orders, which each process tries alone on the probe.)
    shares = [batches(tmp_path / "two.log", rank)[: 2 * BATCHES] for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 2 * BATCHES
    for (rows, *one), (same, *other) in zip(*shares, strict=True):
        assert rows == same
        assert sorted(one + other) == list(range(rows))
    assert min(sum(len(batch) - 1 for batch in share) for share in shares) > 0.4 * 2 * ROWS
    equal = (labels(tmp_path / "one") == labels(tmp_path / "two")).mean()
    print(f"{gradients}, {cache}: {equal:.2%} of labels equal")
    assert equal >= 0.999
    cosines = (centroids(tmp_path / "one") * centroids(tmp_path / "two")).sum(1)
    print(f"centroid cosines {cosines.tolist()}")
    assert float(cosines.min()) > 0.9999


@pytest.mark.parametrize("start", [launch, pytest.param(torchrun, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_run_with_a_message_and_nothing_is_lost(
    start: Launcher, given: dict[str, Any], first: TinyRun, tmp_path: Path
) -> None:
    given = given | {"clusters.gradients": "disk", "clusters.cache": "exact"}
    one, two = (given | {"output": str(first.warmed_up(tmp_path / name))} for name in ("one", "two"))
    run_stage_two(one, tmp_path / "one.log")
    ended = start(two, tmp_path / "lost.log", 1, 10)
    assert 0 not in ended.codes
    assert "start the same command again and it goes on from there" in ended.said or (
        "the same command goes on from there" in ended.said
    ), ended.said[-3000:]
    assert not (tmp_path / "two/stages/centroids").exists()
    assert (tmp_path / "two/stages/.centroids.checkpoint/state/state.json").is_file()
    again = start(two, tmp_path / "again.log")
    assert set(again.codes) == {0}, again.said[-3000:]
    # It went on behind the last checkpoint: two epochs of batches (and two more orders), but not from the first.
    assert 0 < len(batches(tmp_path / "again.log", 0)) < len(batches(tmp_path / "lost.log", 0)) + 6 * BATCHES
    assert (labels(tmp_path / "one") == labels(tmp_path / "two")).mean() >= 0.999
    assert not (tmp_path / "two" / "gradients").exists()
