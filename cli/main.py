"""The command line: one command per room a person enters."""

from __future__ import annotations

import typer

from cli.diagnose import diagnose
from cli.evaluate import evaluate
from cli.evidence import evidence
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
    add_completion=False,
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


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
