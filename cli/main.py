"""The command line: one command per room a person enters."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cli.diagnose import diagnose
from cli.evaluate import evaluate
from cli.evidence import evidence
from cli.extras import naming_the_extra
from cli.inspect import inspect
from cli.pack import pack
from cli.plan import plan
from cli.push import push
from cli.route import route
from cli.serve import serve
from cli.train import train

app = typer.Typer(
    name="gradientspace",
    help="Cluster instruction data by gradient, train one LoRA expert per cluster, serve them behind one endpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(train)
app.command()(pack)
app.command()(plan)
app.command()(diagnose)
app.command()(serve)
app.command()(route)
app.command()(inspect)
app.command()(push)
app.add_typer(evidence)
app.command()(evaluate)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"gradientspace {version('gradientspace')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    """Take what stands before a command's name."""


def main() -> None:
    """Run the command line."""
    try:
        with naming_the_extra(sys.argv[1:]):
            app()
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


if __name__ == "__main__":
    main()
