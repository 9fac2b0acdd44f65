"""How every sub-command ends on a user's mistake: one sentence on standard error, no traceback."""

from __future__ import annotations

from typing import NoReturn

import typer


def fail(message: str, code: int = 2) -> NoReturn:
    """Print the message and leave with this exit code."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    raise typer.Exit(code)
