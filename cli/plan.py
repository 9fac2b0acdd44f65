"""`gradientspace plan`: what a run will hold, write and send, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.memory.plan import Plan, RowCounts
    from training.recipe import Recipe


_TRIED_ROWS = 64


def plan(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe; or give --base-model and --rows.")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", help="Folder, config.json or hub id; only the config is read."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", help="Rows, as for `train`; they are counted. May be repeated."),
    ] = None,
    rows: Annotated[
        int | None, typer.Option("--rows", help="How many rows, instead of --data.", min=1)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe, as for `train`."),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(help="For Stage II in each process, e.g. 8GB; else 60 % of the device's memory."),
    ] = None,
    disk_budget: Annotated[
        str | None, typer.Option(help="For gradients on disk, e.g. 100GB; else half of what is free.")
    ] = None,
    processes: Annotated[int, typer.Option(help="Processes of the run, one per device.", min=1)] = 1,
    trial: Annotated[
        bool,
        typer.Option(
            help="Try the model on this machine for seconds, if its weights are here, for the time."
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Print what a run takes for a model, rank, K and rows: memory, disk, traffic, passes over the rows, time.

    No weights are needed; where they are here, a trial of seconds says the time of every stage and the best number of
    threads. For memory, rows are taken to be as long as data.max_length allows.
    """
    from cli.fail import fail
    from training.errors import TrainingError
    from training.recipe import read_recipe

    given: dict[str, Any] = {
        "data.files": data,
        "base.model": base_model,
        "memory_budget": memory_budget,
        "disk_budget": disk_budget,
    }
    given = {key: value for key, value in given.items() if value}
    if rows is not None:
        given["data.files"] = ("",)  # none are read
    if recipe is None or rows is not None:
        given["output"] = Path()
    try:
        resolved = read_recipe(recipe, given, settings or [])
        made = _plan(resolved, rows, processes, trial)
    except TrainingError as error:
        fail(str(error))
    if as_json:
        import json

        typer.echo(json.dumps(made.summary(), ensure_ascii=False))
    else:
        _print_table(made)
    if made.shortfall:
        fail(made.shortfall)


def _plan(recipe: Recipe, rows: int | None, processes: int, trial: bool) -> Plan:
    from training.errors import TrainingError
    from training.memory.machine import measure_budget
    from training.memory.model_shape import read_shape
    from training.memory.plan import count_rows, draft_plan
    from training.memory.planning import with_finetuning
    from training.rows.reading import HowToRead, read_rows

    room = measure_budget(recipe.memory_budget, recipe.disk_budget, recipe.output or Path(), processes)
    shape = read_shape(recipe.base.model, recipe.lora, recipe.base.revision)
    total = len(read_rows(recipe.data.files, HowToRead.of(recipe.data))[0]) if rows is None else rows
    longest = min(recipe.data.max_length, shape.max_positions)
    counts = count_rows(total, recipe.split, longest)
    drafted = draft_plan(shape, recipe.clusters, counts, room)
    in_half = recipe.base.dtype == "bfloat16" or (recipe.base.dtype == "auto" and not room.on_cpu)
    try:
        planned = with_finetuning(drafted, recipe, shape, counts, 2 if in_half else 4, room)
        return _tried(planned, recipe, rows, counts) if trial else replace(planned, no_trial="--no-trial")
    except TrainingError as error:
        return replace(drafted, shortfall=drafted.shortfall or str(error))


def _tried(planned: Plan, recipe: Recipe, rows: int | None, counts: RowCounts) -> Plan:
    """Add the time that a trial of seconds says; where there can be none, say why."""
    from cli.diagnose import _rows
    from training.errors import TrainingError
    from training.memory.planning import with_trial
    from training.memory.trial import has_weights, try_out
    from training.models.base_model import find_base
    from training.models.encoder import load_encoder
    from training.rows.rendering import TokenRow, use_chat_template

    if not has_weights(recipe.base.model):
        return replace(planned, no_trial="there are no weights in a folder here, only a config")
    if planned.shortfall:
        return replace(planned, no_trial="the run does not fit")
    try:
        base = find_base(recipe.base)
        tokenizer = base.tokenizer()
        use_chat_template(tokenizer, recipe.base.chat_template)
        if rows is None:
            some = _rows(tokenizer, recipe, counts.longest, _TRIED_ROWS)
        else:  # as for the memory: as long as they may be
            ids = (int(tokenizer.pad_token_id or 0),) * counts.longest
            some = [TokenRow("", None, "a prompt " * (counts.longest // 2), ids, counts.longest // 2)] * 4
        name = recipe.router.encoder
        here = name.startswith("package:") or Path(name).is_dir()
        encoder = (
            load_encoder(name) if here else None
        )  # nothing is fetched for a trial: no time of the router then
        most = recipe.router.max_tokens
        encode = (lambda texts: encoder.embed(texts, most)) if encoder else None
        measured = try_out(base, recipe.lora, tokenizer, some, encode)
    except TrainingError as error:
        return replace(planned, no_trial=str(error))
    mean = sum(len(row.input_ids) for row in some) / len(some)
    return with_trial(planned, recipe, counts, mean, measured)


def _time(made: Plan) -> list[tuple[str, str, str]]:
    from training.memory.planning import minutes

    if not made.trial:
        return [("time", "-", f"no trial: {made.no_trial}")]
    stages = ", ".join(f"{stage} {minutes(seconds)}" for stage, seconds in made.seconds.items())
    tried = ", ".join(f"{count}: {speed:,.0f}" for count, speed in made.trial["tried"].items())
    return [
        ("time", minutes(sum(made.seconds.values())), f"{stages}; from a trial of seconds here"),
        ("threads", str(made.trial["threads"]), f"tokens trained on per second, by threads: {tried}"),
    ]


def _print_table(made: Plan) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from training.memory.sizes import gigabytes

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    counted = f"{made.rows:,} rows, at most {made.passes:.2f} passes"
    calibration = "a kill loses at most clusters.checkpoint_seconds"
    for name, figure, note in (
        ("model", made.model, f"K = {made.k}" + (f", {made.processes} processes" * (made.processes > 1))),
        ("d", f"{made.dimension:,}", "entries of one row's gradient"),
        ("one gradient", gigabytes(made.gradient_bytes), "float32"),
        ("base weights", gigabytes(made.weights_bytes), "float32"),
        ("micro-batch", gigabytes(made.micro_batch_bytes), "activations and logits"),
        *_finetuning(made),
        ("centroids", gigabytes(made.centroids_bytes), "held a few times over"),
        ("exact cache", gigabytes(made.exact_cache_bytes), _taken(made.cache == "exact", made.cache_reason)),
        ("ring cache", gigabytes(made.ring_cache_bytes), _taken(made.cache == "ring", made.cache_reason)),
        ("look-ahead", gigabytes(made.window_bytes), f"{made.look_ahead_batches} logical batches"),
        ("probe", gigabytes(made.probe_bytes), f"in blocks of {made.probe_block_rows} rows"),
        ("checkpoint", gigabytes(made.checkpoint_bytes), calibration),
        ("disk", gigabytes(made.disk_bytes), f"{made.gradients}: {made.gradients_reason}"),
        ("row gradients", f"{made.computed_rows:,}", counted),
        ("traffic", gigabytes(made.traffic_bytes), "sent by each process per logical batch"),
        ("peak memory", gigabytes(made.peak_bytes), _phases(made)),
        ("memory budget", gigabytes(made.memory_budget_bytes), ""),
        *_time(made),
    ):
        table.add_row(name, escape(figure), escape(note))
    console = Console()
    console.print(table)
    for warning in made.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, soft_wrap=True)


def _finetuning(made: Plan) -> list[tuple[str, str, str]]:
    from training.memory.finetuning import StepFit
    from training.memory.sizes import gigabytes

    steps = [StepFit(**step) for step in made.finetuning.values()]
    return [("fine-tuning", gigabytes(step.peak_bytes), f"a step: {step.said}") for step in steps]


def _taken(taken: bool, reason: str) -> str:
    return f"taken: {reason}" if taken else "not taken"


def _phases(made: Plan) -> str:
    from training.memory.sizes import gigabytes

    return ", ".join(f"{name} {gigabytes(size)}" for name, size in made.phases.items())
