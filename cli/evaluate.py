"""`gradientspace evaluate`: Table 1 in one command, or how a served endpoint scores."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from evaluation.served import Endpoint


def evaluate(
    recipe: Annotated[
        Path | None, typer.Argument(help="A YAML recipe of an evaluation, such as recipes/table1.yaml.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="all, or names with commas, e.g. one-lora,kmeans,gradientspace.")
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="How many; each draws its own rows and split.")] = 3,
    output: Annotated[
        Path | None,
        typer.Option(help="Where stages, results.json and table1.md go; a rerun goes on from there."),
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="File to draw training rows from; may be repeated.")
    ] = None,
    test: Annotated[
        list[str] | None, typer.Option("--test", help="File of test rows; may be repeated.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Hub id or folder of the base model.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one value of the recipe, e.g. rows.per_source=120."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(help="Score this served endpoint on --rows instead, e.g. http://127.0.0.1:8000."),
    ] = None,
    rows: Annotated[Path | None, typer.Option(help="With --endpoint: the rows to score it on.")] = None,
    model: Annotated[str, typer.Option(help="With --endpoint: the model that is asked for.")] = "auto",
    api_key: Annotated[
        str | None, typer.Option(envvar="OPENAI_API_KEY", help="With --endpoint: if it wants one.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="With --endpoint: of an answer.", min=1)] = 256,
) -> None:
    """Compare Table 1's methods on the same rows, row visits, base and test; or score a served endpoint.

    Stop it at any moment: the same command goes on with the method and seed it was in. A method that fails is said
    in the table and stops no other; the exit code is then 1.
    """
    from cli.fail import fail
    from training.errors import TrainingError

    try:
        if endpoint is not None:
            from evaluation.served import Endpoint

            _endpoint(Endpoint(endpoint, model, api_key), rows, max_new_tokens, output)
            return
        given = {"data.files": data, "test.files": test, "base.model": base_model, "output": output}
        kept = {key: value for key, value in given.items() if value}
        whole = _table_one(recipe, methods, seeds, kept, settings or [])
    except TrainingError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("Stopped. The same command goes on with the method and seed it was in.", code=130)
    if not whole:
        raise typer.Exit(1)


def _table_one(
    recipe: Path | None, methods: str, seeds: int, given: dict[str, Any], settings: list[str]
) -> bool:
    from evaluation.methods.registry import METHODS, choose_methods
    from evaluation.table_one.recipe import EvaluationRecipe
    from training.recipe import read_recipe_of

    chosen = choose_methods(methods)
    resolved = read_recipe_of(EvaluationRecipe, recipe, given, settings)

    from evaluation.table_one.comparison import Comparison, compare
    from evaluation.table_one.results import write_results
    from evaluation.table_one.table import table_one
    from training.progress import Narrator

    assert resolved.output is not None
    titles = {method.name: method.title for method in METHODS}
    command = " ".join(["gradientspace", *sys.argv[1:]])
    written: list[str] = []

    def after_seed(found: Comparison) -> None:
        table = table_one(found, resolved.compare.resamples)
        written[:] = [write_results(resolved, table, list(found.seeds), command, titles)]

    found = compare(resolved, chosen, seeds, Narrator(), after_seed)
    typer.echo(written[0])
    return found.whole


def _endpoint(endpoint: Endpoint, rows: Path | None, max_new_tokens: int, output: Path | None) -> None:
    from evaluation.served import score_endpoint
    from training.errors import RecipeError
    from training.progress import Narrator

    if rows is None:
        raise RecipeError("--endpoint needs rows to score it on. Use --rows FILE.")
    typer.echo(score_endpoint(endpoint, rows, max_new_tokens, output, Narrator()))
