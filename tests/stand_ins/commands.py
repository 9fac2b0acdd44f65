"""A command line in this process: seconds of imports are not spent again."""

from __future__ import annotations

from collections.abc import Callable

import typer
from typer.testing import CliRunner, Result


def run_command(main: Callable[..., object], *arguments: str) -> Result:
    """Run what a module hands to `typer.run`."""
    app = typer.Typer()
    app.command()(main)
    return CliRunner().invoke(app, arguments)
