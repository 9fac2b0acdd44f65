"""The rows that the router benchmark works on: held-out ones to judge by, training rows to fit rivals to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from benchmarks.serving_servers import BenchmarkError
from bundle.manifest import HELD_OUT_FILE
from bundle.read import Bundle
from training.errors import TrainingError
from training.progress import Narrator
from training.recipe import Recipe
from training.router.held_out import FIT, JUDGE, TEACH
from training.run import Run
from training.stages.inputs import Inputs, read_inputs
from training.stages.store import FinishedStages

_ASSIGNMENTS = "report/assignments.parquet"
_NEEDED = {"text", "response", "label", "use"}


@dataclass(frozen=True)
class Rows:
    """n rows: what the router reads, the answer, and the Stage II label [n]."""

    texts: list[str]
    responses: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.texts)

    def first(self, count: int) -> Rows:
        """Return the first of them, at most `count`."""
        return Rows(self.texts[:count], self.responses[:count], self.labels[:count])


@dataclass(frozen=True)
class JudgingRows:
    """Rows that no expert saw: `teaching` taught the router, `fitted` set its thresholds, `judged` did neither."""

    teaching: Rows
    fitted: Rows
    judged: Rows


def held_out_rows(bundle: Bundle) -> JudgingRows:
    """Read the bundle's held-out rows, in an order that has nothing to do with theirs in the file.

    Raises:
        BenchmarkError: it has none, or keeps their texts out.

    """
    path = bundle.folder / HELD_OUT_FILE
    if not path.is_file():
        raise BenchmarkError(
            f"{path}: the bundle holds no held-out rows, so no router can be judged. Train it "
            "again: older versions did not keep them"
        )
    table = pq.read_table(path)
    missing = sorted(_NEEDED - set(table.column_names))
    if missing:
        raise BenchmarkError(f"{path}: it has no column {missing[0]!r}. Train the bundle again")
    if table["text"].null_count or table["response"].null_count:
        raise BenchmarkError(
            f"{path}: it holds labels without texts (data.held_out_texts is false in the recipe). Train the bundle "
            "again with --set data.held_out_texts=true to measure it"
        )
    table = table.take(np.random.default_rng(0).permutation(len(table)))
    use = np.array(table["use"].to_pylist())
    if not (use == JUDGE).any():
        raise BenchmarkError(f"{path}: no held-out row was left out of the fitting, so none can judge")
    rows = Rows(table["text"].to_pylist(), table["response"].to_pylist(), table["label"].to_numpy())
    return JudgingRows(*(_picked(rows, use == part) for part in (TEACH, FIT, JUDGE)))


def training_inputs(bundle: Bundle) -> Inputs:
    """Read the recipe's own rows again: a bundle holds their labels and not their texts.

    Raises:
        BenchmarkError: they are not there any more, or are others now.

    """
    narrator = Narrator()
    narrator.silence()
    try:
        inputs = read_inputs(Recipe.model_validate(bundle.manifest.recipe), narrator)
    except (TrainingError, ValidationError) as error:
        raise BenchmarkError(
            f"The rows that the bundle was trained on can't be read again, and the other routers are fitted to "
            f"them ({error})"
        ) from error
    origins = pq.read_table(bundle.folder / _ASSIGNMENTS, columns=["origin"])["origin"].to_pylist()
    if [row.origin for row in inputs.rows] != origins:
        raise BenchmarkError(
            f"{bundle.manifest.recipe['data']['files']}: these are not the rows that the bundle was trained on"
        )
    return inputs


def router_rows(bundle: Bundle, inputs: Inputs, held_out: JudgingRows) -> Rows:
    """Return the rows that the router's head learnt from: the experts' and the teaching ones."""
    known, more = training_rows(bundle, inputs), held_out.teaching
    return Rows(
        known.texts + more.texts,
        known.responses + more.responses,
        np.concatenate([known.labels, more.labels]),
    )


def training_rows(bundle: Bundle, inputs: Inputs) -> Rows:
    """Return the rows that the experts were trained on, with their labels."""
    labels = pq.read_table(bundle.folder / _ASSIGNMENTS, columns=["label"])["label"].to_numpy()
    places = list(inputs.split.train)
    return Rows(
        [inputs.rows[place].routed_text for place in places],
        [inputs.words(place)[1] for place in places],
        labels[places],
    )


def run_of(bundle: Bundle, inputs: Inputs | None) -> Run | None:
    """Return the run on `inputs` that wrote the bundle, read back, if the bundle still lies there."""
    stages = bundle.folder.parent / "stages"
    return Run(inputs, FinishedStages(stages, Narrator())) if inputs and stages.is_dir() else None


def _picked(rows: Rows, chosen: NDArray[np.bool_]) -> Rows:
    places = np.flatnonzero(chosen)
    return Rows(
        [rows.texts[place] for place in places],
        [rows.responses[place] for place in places],
        rows.labels[places],
    )
