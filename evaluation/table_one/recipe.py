"""The recipe of an evaluation: that of a training run, and what the methods are compared on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from training.recipe import Recipe
from training.recipe_values import Section

Rate = Annotated[float, Field(gt=0)]


def _choice(default: Any, tag: str, why: str, **limits: Any) -> Any:
    return Field(default=default, description=why, json_schema_extra={"tag": tag}, **limits)


class RowsSection(Section):
    """Which rows of `data.files` all methods train on; each seed draws its own."""

    first: int = _choice(1, "ours", "the first row of each file that may be drawn, counted from 1", ge=1)
    per_source: int | None = _choice(None, "ours", "rows drawn of each source; none: all of them", ge=1)


class TestSection(Section):
    """The rows that every method is judged on, once; the same ones for every seed."""

    files: tuple[str, ...] = _choice((), "ours", "JSON, JSONL, CSV or Parquet files, or hub data set ids")
    per_source: int | None = _choice(None, "ours", "rows drawn of each source; none: all of them", ge=1)


class CompareSection(Section):
    """How the methods are tuned and what they are asked."""

    learning_rates: tuple[Rate, ...] = _choice(
        (5e-4, 1e-3, 2e-3),
        "ours",
        "each method's own is chosen among these on the first seed's validation rows",
        min_length=1,
    )
    full_learning_rates: tuple[Rate, ...] = _choice(
        (5e-5, 1e-4, 2e-4), "ours", "the same for full fine-tuning, which wants a tenth", min_length=1
    )
    answered: int | None = _choice(
        None, "ours", "test rows of each source that are answered for exact match; none: all", ge=0
    )
    max_new_tokens: int = _choice(256, "ours", "of a generated answer", ge=1)
    resamples: int = _choice(2000, "ours", "of the paired bootstrap", ge=100)


class EvaluationRecipe(Recipe):
    """One comparison: all methods, all seeds."""

    rows: RowsSection = RowsSection()
    test: TestSection = TestSection()
    compare: CompareSection = CompareSection()

    def of_seed(self, seed: int, rows: Path, folder: Path) -> Recipe:
        """Return the training recipe of one seed: its rows, its run folder."""
        values = {name: getattr(self, name) for name in Recipe.model_fields}
        data = self.data.model_copy(update={"files": (str(rows),)})
        return Recipe(**(values | {"data": data, "seed": seed, "output": folder}))
