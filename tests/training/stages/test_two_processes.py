"""Two processes under torchrun: the same partition as one, rows shared out, a lost one named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from demo.rows import make_rows
from tests.stand_ins.stage_two_run import run_stage_two
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import ROOT


@pytest.fixture(scope="module")
def given(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in make_rows(60, 0, "train")))
    return {
        "data.files": [str(folder / "rows.jsonl")],
        "base.model": str(base_folder),
        "base.dtype": "float32",
        "lora.rank": 4,
        "lora.alpha": 8,
        "split.validation_at_least": 16,
        "split.probe_at_least": 50,
        "warmup.at_least_steps": 10,
        "warmup.learning_rate": 5e-3,
        "clusters.k": 3,
        "clusters.n_init": 2,
        "clusters.max_epochs": 2,
        "clusters.min_rows": 1,
        "clusters.checkpoint_seconds": 0,
        "router.encoder": str(save_encoder(folder / "encoder")),
        "router.max_tokens": 64,
    }


def torchrun(given: dict[str, Any], log: Path, *lost: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(log.parent / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "tests.stand_ins.two_processes", json.dumps(given), str(log), *lost),
        ],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def labels(run: Path) -> np.ndarray:
    return pq.read_table(run / "stages/assignment/assignments.parquet")["label"].to_numpy()


def centroids(run: Path) -> Any:
    return load_file(run / "stages/centroids/centroids.safetensors")["centroids"]


def batches(log: Path, rank: int) -> list[list[int]]:
    return [json.loads(line) for line in log.with_name(f"{log.stem}.{rank}.batches").read_text().splitlines()]


@pytest.mark.parametrize(("gradients", "cache"), [("disk", "ring"), ("recompute", "exact")])
def test_two_processes_find_what_one_finds(
    gradients: str, cache: str, given: dict[str, Any], tmp_path: Path
) -> None:
    given = given | {"clusters.gradients": gradients, "clusters.cache": cache}
    run_stage_two(given | {"output": str(tmp_path / "one")}, tmp_path / "one.log")
    done = torchrun(given | {"output": str(tmp_path / "two")}, tmp_path / "two.log")
    assert done.returncode == 0, done.stderr[-3000:]
    # World size 2, and no row of a logical batch is both's, nor nobody's.
    # (What comes after two epochs are the other orders, which each process tries alone on the probe.)
    shares = [batches(tmp_path / "two.log", rank)[: 2 * 18] for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == 2 * 18
    for (rows, *one), (same, *other) in zip(*shares, strict=True):
        assert rows == same
        assert sorted(one + other) == list(range(rows))
    assert min(sum(len(batch) - 1 for batch in share) for share in shares) > 0.4 * 2 * 284
    one, two = labels(tmp_path / "one"), labels(tmp_path / "two")
    print(f"{gradients}, {cache}: {(one == two).mean():.2%} of labels equal")
    assert (one == two).mean() >= 0.999
    cosines = (centroids(tmp_path / "one") * centroids(tmp_path / "two")).sum(1)
    print(f"centroid cosines {cosines.tolist()}")
    assert float(cosines.min()) > 0.9999


def test_a_lost_process_ends_the_run_with_a_message_and_nothing_is_lost(
    given: dict[str, Any], tmp_path: Path
) -> None:
    given = given | {"clusters.gradients": "disk", "clusters.cache": "exact"}
    one = given | {"output": str(tmp_path / "one")}
    run_stage_two(one, tmp_path / "one.log")
    two = given | {"output": str(tmp_path / "two")}
    ended = torchrun(two, tmp_path / "lost.log", "1", "10")
    assert ended.returncode != 0
    assert "start the same command again and it goes on from there" in ended.stderr or (
        "the same command goes on from there" in ended.stderr
    ), ended.stderr[-3000:]
    assert not (tmp_path / "two/stages/centroids").exists()
    assert (tmp_path / "two/stages/.centroids.checkpoint/state/state.json").is_file()
    again = torchrun(two, tmp_path / "again.log")
    assert again.returncode == 0, again.stderr[-3000:]
    # It went on behind the last checkpoint: two epochs of batches (and two more orders), but not from the first.
    assert 0 < len(batches(tmp_path / "again.log", 0)) < len(batches(tmp_path / "lost.log", 0)) + 6 * 18
    assert (labels(tmp_path / "one") == labels(tmp_path / "two")).mean() >= 0.999
    assert not (tmp_path / "two" / "gradients").exists()
