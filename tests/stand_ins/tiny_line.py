"""The whole line on a tiny model: one run that many tests look at, and copy to go on from."""

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
from training.pipeline import train
from training.progress import Narrator
from training.recipe import Recipe, read_recipe

BAD_ROWS = [{"instruction": "Add.", "output": ""}, {"question": "?"}]


@dataclass
class Run:
    """A recipe's values, and a way to run it."""

    given: dict[str, Any]
    said: list[str] = field(default_factory=list)

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
            if line.startswith(("Stage", "Bundle")):
                title, done, _ = line.partition(": done before, kept")
                kept[title.split(" (")[0]] = bool(done)
        return kept

    def copied_to(self, folder: Path) -> Run:
        shutil.copytree(self.folder, folder)
        return Run(self.given | {"output": str(folder)})


def finished_run(base: Path, folder: Path) -> Run:
    """A finished run on 120 demo rows and two that can't be used; all of it is in `folder`."""
    rows = make_rows(24, 0, "train")
    lines = [json.dumps(row) for row in [*rows[:50], BAD_ROWS[0], *rows[50:], BAD_ROWS[1]]]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    run = Run(
        {
            "data.files": [str(folder / "rows.jsonl")],
            "data.licenses": ["mit"],
            "base.model": str(base),
            "base.dtype": "float32",
            "lora.rank": 4,
            "lora.alpha": 8,
            "split.validation_at_least": 16,
            "split.probe_at_least": 24,
            "warmup.at_least_steps": 10,
            "warmup.learning_rate": 5e-3,
            "clusters.k_max": 3,
            "clusters.n_init": 2,
            "clusters.max_epochs": 2,
            "clusters.min_rows": 1,
            "experts.epochs": 1,
            "experts.learning_rate": 1e-3,
            "router.encoder": str(save_encoder(folder / "encoder")),
            "router.max_tokens": 64,
            "output": str(folder / "run"),
        }
    )
    run.train()
    return run
