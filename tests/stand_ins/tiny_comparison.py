"""A tiny base and encoder, rows of three sources in two files each, and the recipe that compares methods on them."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from demo.rows import make_rows
from evaluation.seed.seed_run import SeedRun
from evaluation.table_one.recipe import EvaluationRecipe
from tests.stand_ins.tiny_encoder import save_encoder
from tests.stand_ins.tiny_model import ROOT, save_base
from training.progress import Narrator
from training.recipe import read_recipe_of
from training.stages.inputs import read_inputs
from training.stages.processes import World
from training.stages.store import StageStore

SOURCES = ("arithmetic", "code", "story")
RECIPE = ROOT / "recipes" / "table1.yaml"


@dataclass(frozen=True)
class Files:
    """Where things lie."""

    base: Path
    encoder: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]

    def settings(self) -> dict[str, Any]:
        """The committed recipe, made tiny."""
        return {
            "router.encoder": str(self.encoder),
            "router.max_tokens": 64,
            "base.model": str(self.base),
            "data.files": [str(path) for path in self.train],
            "data.max_length": 128,
            "test.files": [str(path) for path in self.test],
            "rows.first": 3,
            "rows.per_source": 12,
            "test.per_source": 4,
            "lora.rank": 2,
            "split.validation_at_least": 6,
            "split.probe_at_least": 12,
            "warmup.epochs": 1,
            "warmup.at_least_steps": 4,
            "clusters.k": 2,
            "clusters.min_rows": 2,
            "clusters.max_epochs": 1,
            "experts.batch_rows": 4,
            "experts.epochs": 1,
            "compare.learning_rates": [1e-3],
            "compare.full_learning_rates": [1e-4],
            "compare.answered": 1,
            "compare.max_new_tokens": 4,
            "compare.resamples": 200,
        }

    def recipe(self, output: Path, **changes: Any) -> EvaluationRecipe:
        given = (
            self.settings() | {"output": output} | {key.replace("__", "."): v for key, v in changes.items()}
        )
        return read_recipe_of(EvaluationRecipe, RECIPE, given, [])


def make_files(folder: Path) -> Files:
    """Write everything below a folder."""
    rows = {"train": make_rows(16, 0, "train"), "test": make_rows(6, 1, "heldout")}
    paths = {(part, source): folder / f"{source}_{part}.jsonl" for part in rows for source in SOURCES}
    for (part, source), path in paths.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in rows[part] if row["source"] == source))
    return Files(
        base=save_base(folder / "base"),
        encoder=save_encoder(folder / "encoder"),
        train=tuple(paths["train", source] for source in SOURCES),
        test=tuple(paths["test", source] for source in SOURCES),
    )


def silent() -> Narrator:
    return Narrator(Console(file=io.StringIO(), width=200))


def store_in(folder: Path) -> StageStore:
    return StageStore(folder / "stages", silent(), World())


def seed_run(files: Files, folder: Path, **changes: Any) -> SeedRun:
    """One seed's run on all rows of the training files, judged on the first four rows of it."""
    recipe = files.recipe(folder, **changes)
    rows = folder / "rows.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    rows.write_text("".join(path.read_text() for path in files.train))
    inputs = read_inputs(recipe.of_seed(recipe.seed, rows, folder), silent())
    return SeedRun(inputs, StageStore(folder / "stages", silent(), World()), inputs.rows[:4])
