"""The comparison: every seed, every method, each on the same rows; a method that fails stops no other."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from evaluation.answers.answers import exact_matches
from evaluation.answers.engines import Engine, engine_for
from evaluation.methods.protocol import Method
from evaluation.seed.drawn_rows import Drawn, DrawnRow, draw_rows, write_records
from evaluation.seed.scoring import Scores, score
from evaluation.seed.seed_run import SeedRun
from evaluation.table_one.contamination import shared_grams
from evaluation.table_one.learning_rate import choose_rate
from evaluation.table_one.recipe import EvaluationRecipe
from training.errors import RowsError, TrainingError
from training.models.base_model import BaseModel, find_base
from training.progress import Narrator
from training.rows.rendering import IGNORED, use_chat_template
from training.stages.inputs import read_inputs
from training.stages.processes import World
from training.stages.store import StageStore


@dataclass(frozen=True)
class Outcome:
    """One method in one seed: by way of choosing, scores of the test rows and right answers of the asked ones."""

    scores: dict[str, Scores]
    exact: dict[str, NDArray[np.bool_]]
    row_visits: int
    learning_rate: float
    agreement: float | None
    """Of router and oracle, on the test rows."""


@dataclass(frozen=True)
class SeedFacts:
    """What a seed's rows were: how many, how many tokens and clusters, what of the test rows stands in them too."""

    train_rows: int
    validation_rows: int
    by_source: dict[str, int]
    commonest_answer: dict[str, str]
    commonest_token: dict[str, int]
    contaminated: dict[str, int]


@dataclass
class Comparison:
    """All that was measured; outcomes by method's name, then seed."""

    methods: Sequence[Method]
    test: Sequence[DrawnRow]
    asked: NDArray[np.int64]
    """Places of the test rows that were answered."""
    engine: str
    outcomes: dict[str, dict[int, Outcome]] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Sources that were asked for and could not be had, and why."""
    seeds: dict[int, SeedFacts] = field(default_factory=dict)
    rates: dict[str, dict[float, float]] = field(default_factory=dict)
    """Validation loss by learning rate that was tried."""

    @property
    def whole(self) -> bool:
        """Whether nothing failed."""
        return not self.failed and not self.missing


def compare(
    recipe: EvaluationRecipe,
    methods: Sequence[Method],
    seeds: int,
    narrator: Narrator,
    after_seed: Callable[[Comparison], None],
) -> Comparison:
    """Run every method in every seed; what is done stays done, and a rerun goes on from there.

    `after_seed` is called with what is known when a seed is through.

    Raises:
        TrainingError: nothing can be compared at all: no base, no row to train on, none to judge by.

    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    assert recipe.output is not None
    base = find_base(recipe.base)
    ground = _Ground(recipe, base, narrator)
    engine = engine_for(base, ground.tokenizer, recipe.output / "vllm.log")
    found = Comparison(methods, ground.test.rows, ground.asked, engine.name, missing=dict(ground.test.failed))
    chosen: dict[str, float] = {}
    try:
        for number in range(seeds):
            seed = recipe.seed + number
            narrator.title(f"\nSeed {seed} ({number + 1} of {seeds})")
            with ground.seed_run(seed, found) as run:
                for place, method in enumerate(methods, start=1):
                    narrator.title(f"\n{method.title} ({place} of {len(methods)}, seed {seed})")
                    _try(run, method, found, chosen, ground, engine)
                run.clear()
            after_seed(found)
    finally:
        engine.close()
    return found


class _Ground:
    """What all seeds have in common: the test rows, and how rows are drawn."""

    def __init__(self, recipe: EvaluationRecipe, base: BaseModel, narrator: Narrator) -> None:
        assert recipe.output is not None
        self.recipe = recipe
        self.narrator = narrator
        self.output = recipe.output
        self.tokenizer = base.tokenizer()
        use_chat_template(self.tokenizer, recipe.base.chat_template)
        self._max_length = min(recipe.data.max_length, base.max_positions)
        self.test = self._draw(recipe.test.files, 1, recipe.test.per_source, recipe.seed)
        if not self.test.rows:
            why = "; ".join(self.test.failed.values()) or "test.files names no file"
            raise RowsError(f"There is no test row to judge by: {why}. Use --test FILE, or set test.files.")
        self.asked = self._asked()

    def seed_run(self, seed: int, found: Comparison) -> SeedRun:
        """Draw a seed's rows and make ready what its methods share."""
        recipe = self.recipe
        train = self._draw(recipe.data.files, recipe.rows.first, recipe.rows.per_source, seed)
        found.missing |= train.failed
        if not train.rows:
            raise RowsError(f"There is no row to train on: {'; '.join(train.failed.values())}.")
        for source in train.sources:
            if source not in self.test.sources:
                found.missing.setdefault(source, f"no test row is of the source {source!r}")
        for name, why in found.missing.items():
            self.narrator.warn(f"{name}: failed: {why}")
        folder = self.output / f"seed-{seed}"
        write_records(folder / "rows.jsonl", train.rows)
        inputs = read_inputs(recipe.of_seed(seed, folder / "rows.jsonl", folder), self.narrator)
        found.seeds[seed] = self._facts(train, inputs.split.validation)
        store = StageStore(folder / "stages", self.narrator, World())
        return SeedRun(inputs, store, [row.row for row in self.test.rows])

    def _draw(self, files: Sequence[str], first: int, per_source: int | None, seed: int) -> Drawn:
        return draw_rows(files, first, per_source, seed, self.recipe, self.tokenizer, self._max_length)

    def _asked(self) -> NDArray[np.int64]:
        most = self.recipe.compare.answered
        taken: dict[str, int] = {}
        places = []
        for place, row in enumerate(self.test.rows):
            if row.answer is not None and (most is None or taken.get(row.source, 0) < most):
                taken[row.source] = taken.get(row.source, 0) + 1
                places.append(place)
        return np.asarray(places, dtype=np.int64)

    def _facts(self, train: Drawn, validation: Sequence[int]) -> SeedFacts:
        by_source: dict[str, list[DrawnRow]] = {}
        for row in train.rows:
            by_source.setdefault(row.source, []).append(row)
        grams = shared_grams((row.text for row in train.rows), (row.text for row in self.test.rows))
        contaminated = dict.fromkeys(self.test.sources, 0)
        for row, count in zip(self.test.rows, grams, strict=True):
            contaminated[row.source] += count > 0
        said = ", ".join(f"{source} {count}" for source, count in contaminated.items())
        self.narrator.say(f"Test rows that share 13 words in a row with a training row: {said}")
        return SeedFacts(
            train_rows=len(train.rows) - len(validation),
            validation_rows=len(validation),
            by_source={source: len(rows) for source, rows in by_source.items()},
            commonest_answer={
                source: _commonest([row.answer for row in rows if row.answer is not None], "")
                for source, rows in by_source.items()
            },
            commonest_token={
                source: _commonest([t for row in rows for t in row.row.labels if t != IGNORED], -1)
                for source, rows in by_source.items()
            },
            contaminated=contaminated,
        )


def _try(
    run: SeedRun,
    method: Method,
    found: Comparison,
    chosen: dict[str, float],
    ground: _Ground,
    engine: Engine,
) -> None:
    try:
        if method.name not in chosen:
            chosen[method.name], found.rates[method.name] = choose_rate(run, method, ground.recipe.compare)
        rate = chosen[method.name]
        fitted = method.fit(run, rate)
        scores = score(run, f"{method.name}-test", fitted, run.test)
        exact: dict[str, NDArray[np.bool_]] = {}
        if len(ground.asked):
            rows = [ground.test.rows[place] for place in ground.asked]
            limit = ground.recipe.compare.max_new_tokens
            exact = exact_matches(run, method.name, fitted, run.test[ground.asked], rows, engine, limit)
    except Exception as error:  # whatever it is: the other methods go on, and the table says it
        why = str(error).splitlines()[0] if str(error) else "no message"
        said = why if isinstance(error, TrainingError) else f"{type(error).__name__}: {why}"
        found.failed.setdefault(method.name, {})[run.seed] = said
        run.store.narrator.warn(f"{method.title} failed: {said}")
        trace = run.store.folder.parent / f"{method.name}.traceback.txt"
        trace.write_text(traceback.format_exc(), encoding="utf-8")
        return
    outcome = Outcome(scores, exact, fitted.row_visits, rate, fitted.agreement(run.test))
    found.outcomes.setdefault(method.name, {})[run.seed] = outcome


def _commonest(values: Sequence[Any], default: Any) -> Any:
    return Counter(values).most_common(1)[0][0] if values else default
