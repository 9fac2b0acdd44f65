"""`gradientspace diagnose`: can Stage II trust the gradients of this base and adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.fail import fail
from cli.split_table import print_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from training.diagnosis.properties import Check
    from training.recipe import Recipe
    from training.rows.rendering import TokenRow

_CHECKED = 8  # rows
_SAMPLED = 256  # rows of --split


def diagnose(
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Hub id or folder of the base model.")
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option("--adapter", help="Folder of the warm-up adapter; without, the base alone.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Folder of a run: its recipe, base, rows and warm-up adapter."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", help="File or folder of rows, or hub data set (ID:CONFIG:SPLIT). May be repeated."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option("--rows", min=1, help="Rows to check on, spread over the data; 8, or 256 with --split."),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split", help="Ask instead whether splitting would help: routed cosine for each K, no expert."
        ),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, as for `train`."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check on a few rows that the gradients Stage II clusters are exact, and what to change where not.

    Exits with 0 if all checks pass, 1 if one fails, 2 if they could not be run. With --split another question is
    asked, whether an expert per cluster may help on these rows: 0 if it was answered.
    """
    from training.errors import TrainingError
    from training.progress import Narrator
    from training.recipe import BaseSection, DataSection, Recipe, read_recipe
    from training.stages.record import recorded_recipe
    from training.stages.store import FinishedStages

    if run and adapter:
        fail("--run already names an adapter, the run's own. Give --run or --adapter, not both.")
    try:
        recipe = recorded_recipe(run) if run else Recipe()
        if base_model:
            recipe = recipe.model_copy(update={"base": BaseSection(model=base_model)})
        if data:
            recipe = recipe.model_copy(update={"data": DataSection(files=tuple(data))})
        if not recipe.base.model:
            fail("No base model is given. Use --base-model ID_OR_FOLDER, or --run FOLDER.")
        if not recipe.data.files:
            fail("No rows are given. Use --data FILE, or --run FOLDER.")
        if run:
            adapter = FinishedStages(run / "stages", Narrator()).left("warmup").folder
        if settings:
            given = recipe.model_dump(mode="json") | {"output": str(recipe.output or Path())}
            recipe = read_recipe(None, given, settings)
        if split:
            print_split(recipe, adapter, rows or _SAMPLED, as_json)
            return
        checks = _checks(recipe, adapter, rows or _CHECKED)
    except TrainingError as error:
        fail(str(error))
    _print(checks, as_json)
    raise typer.Exit(int(any(check.passed is False for check in checks)))


def _checks(recipe: Recipe, adapter: Path | None, count: int) -> list[Check]:
    from transformers.utils import logging

    from training.diagnosis.diagnosis import diagnose as diagnose_adapter
    from training.diagnosis.diagnosis import diagnose_base
    from training.errors import TrainingError
    from training.models.base_model import find_base
    from training.models.finetune import load_adapter, new_adapter
    from training.rows.rendering import use_chat_template

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # As Stage II loads it, whatever the base is trained and served in.
    base = find_base(recipe.base.model_copy(update={"dtype": "float32"}))
    tokenizer = base.tokenizer()
    use_chat_template(tokenizer, recipe.base.chat_template)
    max_length = min(recipe.data.max_length, base.max_positions)
    rows = _rows(tokenizer, recipe, max_length, count)
    pad_id, budget = int(tokenizer.pad_token_id), recipe.clusters.micro_batch_tokens
    if adapter and not (adapter / "adapter_config.json").is_file():
        raise TrainingError(
            f"{adapter}: there is no adapter_config.json in it, so it is no adapter's folder."
        )
    try:
        model = (
            load_adapter(base, adapter, trainable=False)
            if adapter
            else new_adapter(base, recipe.lora, recipe.seed)
        )
    except TrainingError:
        raise
    except Exception as error:  # peft and safetensors raise many kinds
        reason = " ".join(str(error).split()) or "no message"
        raise TrainingError(
            f"{adapter or 'A LoRA on all linear layers'}: it can't be laid over {base.record.name} "
            f"({type(error).__name__}: {reason[:200]}). Is it for this base?"
        ) from error
    return (diagnose_adapter if adapter else diagnose_base)(model, rows, pad_id, budget)


def _rows(tokenizer: PreTrainedTokenizerBase, recipe: Recipe, max_length: int, count: int) -> list[TokenRow]:
    """Render `count` rows, spread evenly over the data; for one that can't be used, the next that can."""
    from training.errors import RowsError
    from training.rows.reading import HowToRead, read_rows
    from training.rows.rendering import TokenRow, render

    read, _ = read_rows(recipe.data.files, HowToRead.of(recipe.data))
    rows: list[TokenRow] = []
    step = max(1, len(read) // count)
    # First every step-th row, then those after them, and so on.
    for place in (place for first in range(step) for place in range(first, len(read), step)):
        rendered = render(tokenizer, read[place], recipe.router.routed_text, max_length)
        if isinstance(rendered, TokenRow):
            rows.append(rendered)
        if len(rows) == count:
            break
    if not rows:
        raise RowsError(
            f"{', '.join(recipe.data.files)}: not one row in it can be used. Check its form and length."
        )
    return rows


def _print(checks: list[Check], as_json: bool) -> None:
    if as_json:
        import dataclasses
        import json

        typer.echo(json.dumps([dataclasses.asdict(check) for check in checks], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    table.add_column("check", overflow="fold")
    table.add_column("", no_wrap=True)
    for heading in ("number", "limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    for check in checks:
        shown = {True: "[green]pass[/]", False: "[bold red]FAIL[/]", None: "[dim]-[/]"}[check.passed]
        if _is_information(check):
            shown = "safe" if _is_safe(check) else "[yellow]unsafe[/]"
        value = "" if check.value is None else f"{check.value:.2g}"
        table.add_row(escape(check.check), shown, value, f"{check.bound} {check.limit:g}")
    console = Console()
    console.print(table)
    for check in checks:
        if check.passed is not True and not (_is_information(check) and _is_safe(check)):
            console.print(f"{check.check}: {check.meaning}.", markup=False, soft_wrap=True)
        if check.passed is False:
            console.print(f"{check.check}: {check.advice}", style="bold", markup=False, soft_wrap=True)
    console.print(_in_one_line(checks), style="bold", markup=False, soft_wrap=True)


def _is_information(check: Check) -> bool:
    return check.passed is None and check.value is not None


def _is_safe(check: Check) -> bool:
    return check.value is not None and check.value <= check.limit


def _in_one_line(checks: list[Check]) -> str:
    """What it all says: may Stage II use these gradients?"""
    failed = [check.check for check in checks if check.passed is False]
    passed = sum(check.passed is True for check in checks)
    unmeasured = sum(check.passed is None and check.value is None for check in checks)
    left = f", {unmeasured} not measured" if unmeasured else ""
    if failed:
        return f"Not yet: {len(failed)} of {len(checks)} checks failed ({', '.join(failed)}){left}."
    return f"Yes: this model's per-row gradients are exact; {passed} checks passed{left}."
