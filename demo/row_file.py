"""A demo's rows as a file, and the command line that writes it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from demo.split import Split

Record = dict[str, str]
"""A row: instruction, input (may be ""), output, source (the true skill) and answer (what the check needs)."""


@dataclass(frozen=True)
class Demo:
    """Rows with several skills, and an exact check of every reply."""

    skills: tuple[str, ...]
    make_rows: Callable[[int, int, Split], list[Record]]
    """(rows of each skill, seed, split) to rows, the same for the same arguments."""
    is_correct: Callable[[Record, str], bool]


def prompt_of(row: Record) -> str:
    """The user's turn of a row: the instruction, then the input on a line of its own if there is one."""
    return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]


def run_command(demo: Demo) -> None:
    """Read this process's arguments, and write the rows they ask for, one JSON object a line."""

    def main(
        output: Annotated[Path, typer.Option(help="The JSON Lines file to write.")],
        per_skill: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of each skill.")],
        seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 0,
        split: Annotated[
            Split, typer.Option(help="routing: to judge the router. No facts stand on both sides.")
        ] = "train",
    ) -> None:
        """Write instruction rows of the demo, one JSON object a line."""
        rows = demo.make_rows(per_skill, seed, split)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        typer.echo(f"{len(rows)} rows of {len(demo.skills)} skills ({split}, seed {seed}) in {output}")

    typer.run(main)
