"""A finished training run on a tiny base: what the evidence is measured on in tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from demo.rows import make_rows
from tests.stand_ins.tiny_comparison import silent
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import save_base
from training.pipeline import train
from training.recipe import read_recipe
from training.run import Run, finished_run
from training.stages.processes import World
from training.stages.store import StageStore


def _settings(folder: Path, rows: Path) -> dict[str, Any]:
    return {
        "data.files": [str(rows)],
        "data.max_length": 128,
        "base.model": str(save_base(folder / "base")),
        "base.dtype": "float32",
        "router.encoder": str(save_encoder(folder / "encoder")),
        "router.max_tokens": 64,
        "lora.rank": 2,
        "lora.dropout": 0.0,
        "split.validation_at_least": 10,
        "split.probe_at_least": 16,
        "warmup.epochs": 1,
        "warmup.at_least_steps": 12,
        "warmup.learning_rate": 5e-3,
        "clusters.k": 2,
        "clusters.min_rows": 2,
        "clusters.max_epochs": 2,
        "experts.epochs": 1,
        "experts.learning_rate": 1e-3,
        "output": folder / "run",
    }


@cache
def tiny_run_folder() -> Path:
    """Train it, once per process; tests must not change it."""
    folder = Path(mkdtemp(prefix="tiny-run-"))
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows(12, 0, "train")))
    train(read_recipe(None, _settings(folder, rows), []), silent())
    return folder / "run"


@cache
def tiny_run() -> Run:
    return finished_run(tiny_run_folder(), silent())


def store_in(folder: Path) -> StageStore:
    return StageStore(folder / "stages", silent(), World())
