"""`gradientspace diagnose --split`: would splitting these rows help, as a table and a sentence."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from training.recipe import Recipe
    from training.split_estimate import SplitEstimate


def print_split(recipe: Recipe, adapter: Path | None, rows: int, as_json: bool) -> None:
    """Measure it on `rows` rows, with the adapter in a run's folder or a short warm-up, and print it.

    Raises:
        TrainingError: base, rows or encoder can't be used.

    """
    from transformers.utils import logging

    from training.progress import Narrator
    from training.recipe import SplitSection
    from training.split_estimate import estimate_split
    from training.stages.inputs import read_inputs
    from training.stages.processes import World
    from training.stages.store import StageStore

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if adapter is None:  # nothing is validated, and no probe is taken: a few rows will do
        few = SplitSection(validation_at_least=8, probe_at_least=8)
        recipe = recipe.model_copy(update={"split": few})
    narrator = Narrator()
    if as_json:
        narrator.silence()
    with tempfile.TemporaryDirectory(prefix="gradientspace-split-") as scratch:
        folder = Path(scratch)
        store = StageStore(folder / "stages", narrator, World())
        found = estimate_split(read_inputs(recipe, narrator), folder, store, adapter, rows)
    if as_json:
        typer.echo(json.dumps(found.summary()))
    else:
        _print(found)


def _print(found: SplitEstimate) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"Routed cosine on {found.rows} rows: of an unseen row, with where its prompt is sent"
    )
    for heading in ("K", "readable", "from", "text", "ahead of one"):
        table.add_column(heading, justify="left" if heading == "from" else "right", no_wrap=True)
    table.add_row("1", f"{found.one_cluster:.4f}", "", f"{found.one_cluster:.4f}", "")
    for line in found.lines:
        style = "bold" if line.k == found.k else ""
        table.add_row(
            str(line.k),
            f"{line.readable:.4f}",
            line.start,
            f"{line.text:.4f}",
            f"{line.ahead:.0%}",
            style=style,
        )
    console = Console()
    console.print(table)
    console.print(found.verdict, style="bold", markup=False, soft_wrap=True)
