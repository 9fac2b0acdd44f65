"""`gradientspace train`: rows to bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def train(
    recipe: Annotated[
        Path | None,
        typer.Argument(help="A YAML recipe (see recipes/); or give --data, --base-model, --output."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            help="File or folder of rows, or hub data set (ID:CONFIG:SPLIT): docs/data.md. May be repeated.",
        ),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Hub id or folder of the base model.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="The run's folder; the bundle lands inside it.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one value of the recipe, e.g. lora.rank=8; may be repeated.",
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            help="Memory of each process, e.g. 8GB; else 60 % of the device's. Every stage is planned to fit it."
        ),
    ] = None,
    disk_budget: Annotated[
        str | None,
        typer.Option(
            help="Disk for gradients, e.g. 100GB; else half of what is free. Decides whether they are kept."
        ),
    ] = None,
    target_agreement: Annotated[
        float | None,
        typer.Option(
            help="Let the fallback answer where the router would agree less often than this, e.g. 0.99 "
            "(router.target_agreement)."
        ),
    ] = None,
    train_only: Annotated[
        bool,
        typer.Option("--train-only", help="Go on where the engine could serve no experts on the base."),
    ] = False,
    help_recipe: Annotated[
        bool,
        typer.Option(
            "--help-recipe", help="Print every key of a recipe, its default and where that comes from."
        ),
    ] = False,
) -> None:
    """Cluster rows by gradient, train one LoRA expert per cluster and a router, write a bundle.

    Rows are Alpaca (instruction, input, output), prompt/completion, or messages. Stop it at any moment: the same
    command goes on with the stage it was in.
    """
    from cli.fail import fail
    from training.errors import TrainingError
    from training.recipe import Recipe, read_recipe, resolved_values

    if help_recipe:
        for key, value, tag, why in resolved_values(Recipe()):
            typer.echo(f"{key} = {value}  ({tag}) {why}")
        return

    named: dict[str, Any] = {
        "data.files": data,
        "base.model": base_model,
        "output": output,
        "train_only": train_only or None,
        "memory_budget": memory_budget,
        "disk_budget": disk_budget,
        "router.target_agreement": target_agreement,
    }
    try:
        given = {key: value for key, value in named.items() if value not in (None, [], "")}
        resolved = read_recipe(recipe, given, settings or [])
        # Only now what takes seconds to import: a wrong recipe is told at once.
        from training.pipeline import train as run
        from training.progress import Narrator

        narrator = Narrator()
        bundle = run(resolved, narrator)
    except TrainingError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped. The same command goes on with the stage it was in.", code=130)
    kept, k = len(bundle.manifest.experts), len(bundle.manifest.label_order)
    experts = f"K = {k}" if kept == k else f"K = {k}, {kept} experts served"
    narrator.title(f"\nThe bundle is ready: {bundle.folder} ({experts})")
    report = bundle.folder / "report"
    verdict = json.loads((report / "report.json").read_text(encoding="utf-8"))["verdict"]
    narrator.say(f"Verdict:     {verdict['headline']}")
    narrator.say(f"Why:         {report / 'report.html'}")
    narrator.say(f"Look at it:  gradientspace inspect {bundle.folder}")
    narrator.say(f"Serve it:    gradientspace serve {bundle.folder}")
    splitting = verdict["findings"][0]  # the report's first question
    narrator.say(f"{splitting['topic']} {splitting['text']}")
