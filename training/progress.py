"""What a person sees of long work: a line per stage, a bar with counts inside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class Advance(Protocol):
    """Called as work gets done."""

    def __call__(self, done: int, /) -> None:
        """Count `done` more units."""
        ...


def ignore_progress(done: int, /) -> None:
    """Watch nothing."""


class Narrator:
    """Says what training is doing."""

    def __init__(self, console: Console | None = None) -> None:
        """Speak on standard error unless told otherwise: standard output is for results."""
        self.console = console or Console(stderr=True, highlight=False)

    def silence(self) -> None:
        """Say nothing from now on: another process speaks for this one."""
        self.console.quiet = True

    def title(self, text: str) -> None:
        """Print what begins now."""
        self.console.print(text, style="bold", markup=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Print one warning."""
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        """Show a bar while the block runs; where there is no terminal, one line at its end."""
        columns = (
            TextColumn("    {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, refresh_per_second=4) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done, /: progress.advance(task, done)
