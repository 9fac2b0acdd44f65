"""The whole line on a tiny model: runs that many tests look at, and copy to go on from."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from bundle.read import Bundle
from demo.rows import make_rows
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import save_base
from training.pipeline import train
from training.progress import Narrator
from training.recipe import Recipe, read_recipe

BAD_ROWS = [{"instruction": "Add.", "output": ""}, {"question": "?"}]


@dataclass
class TinyRun:
    """A recipe's values, and a way to run it."""

    given: dict[str, Any]
    said: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> TinyRun:
        """Read the finished run that `finish_run` left in a folder."""
        return cls(**json.loads((folder / "tiny_run.json").read_text()))

    @property
    def folder(self) -> Path:
        return Path(self.given["output"])

    def recipe(self, **changes: Any) -> Recipe:
        return read_recipe(None, self.given | {key.replace("__", "."): v for key, v in changes.items()}, [])

    def train(self, **changes: Any) -> Bundle:
        screen = io.StringIO()
        try:
            return train(self.recipe(**changes), Narrator(Console(file=screen, width=200, highlight=False)))
        finally:
            self.said.append(screen.getvalue())

    def kept(self) -> dict[str, bool]:
        """Which stages the last run kept, by their titles."""
        kept = {}
        for line in self.said[-1].splitlines():
            if line.startswith(("Stage", "Bundle", "What the run will take")):
                title, done, _ = line.partition(": done before, kept")
                kept[title.split(" (")[0]] = bool(done)
        return kept

    def copied_to(self, folder: Path) -> TinyRun:
        shutil.copytree(self.folder, folder)
        return TinyRun(self.given | {"output": str(folder)})

    def warmed_up(self, folder: Path) -> Path:
        """Copy nothing but what Stage II starts from, and return the new folder."""
        for stage in ("warmup", "diagnosis"):
            shutil.copytree(self.folder / "stages" / stage, folder / "stages" / stage)
        return folder


def finish_run(folder: Path, *, per_skill: int = 24, **changes: Any) -> None:
    """Train on demo rows of five skills and two rows that can't be used; all of it is in `folder`."""
    rows = make_rows(per_skill, 0, "train")
    lines = [json.dumps(row) for row in [*rows[:50], BAD_ROWS[0], *rows[50:], BAD_ROWS[1]]]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    values = {
        "data.files": [str(folder / "rows.jsonl")],
        "data.licenses": ["mit"],
        "base.model": str(save_base(folder / "base")),
        "base.dtype": "float32",
        "lora.rank": 4,
        "lora.alpha": 8,
        "split.validation_at_least": 16,
        "split.probe_at_least": 24,
        "warmup.at_least_steps": 10,
        "warmup.learning_rate": 5e-3,
        "clusters.rule": "paper",
        "clusters.readable": 0.01,
        "clusters.k_max": 3,
        "clusters.n_init": 2,
        "clusters.max_epochs": 2,
        "clusters.min_rows": 1,
        "experts.epochs": 1,
        "experts.learning_rate": 1e-3,
        "experts.shared": 0.75,
        # What helps on so tiny a base is chance; tests/training/test_pipeline_gate.py goes on from here with a gate.
        "router.gate": "off",
        "fallback.train": "warmup",
        "router.encoder": str(save_encoder(folder / "encoder")),
        "router.max_tokens": 64,
        "output": str(folder / "run"),
    }
    run = TinyRun(values | {key.replace("__", "."): value for key, value in changes.items()})
    run.train()
    (folder / "tiny_run.json").write_text(json.dumps({"given": run.given, "said": run.said}))


# What the evidence is measured on: the paper's Stage II, on fewer rows, as it trains many experts on them.
SMALLER = {
    "per_skill": 12,
    "data__max_length": 128,
    "lora__rank": 2,
    "lora__dropout": 0.0,
    "split__validation_at_least": 10,
    "split__probe_at_least": 16,
    "warmup__epochs": 1,
    "warmup__at_least_steps": 12,
    "clusters__k": 2,
    "clusters__readable": 0.0,
    "clusters__min_rows": 2,
}
