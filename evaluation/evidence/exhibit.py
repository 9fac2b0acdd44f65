"""A table or figure of the paper, measured: Markdown for people, JSON for machines, a picture.

Above every table stands what it takes to get it again: the command, the commit, the machine, the seeds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.record import machine, write_whole
from training.stages.provenance import git_commit, package_versions

INK, MUTED, ACCENT, SECOND = "#222222", "#767676", "#2f6db5", "#c4552d"
SERIES = (ACCENT, SECOND, "#3d8a57", "#8a5ca8", "#b08a1e", "#4b8f98")
_DOTS_PER_INCH = 130


@dataclass(frozen=True)
class Table:
    """Rows of cells under a heading; a cell is text as it is to be read."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """As a Markdown table, its title above it."""
        lines = [f"| {' | '.join(map(_cell, cells))} |" for cells in (self.columns, *self.rows)]
        lines.insert(1, f"|{'---|' * len(self.columns)}")
        return f"**{self.title}**\n\n" + "\n".join(lines)


@dataclass
class Exhibit:
    """One table or figure of the paper as measured.

    `figures` can be written as JSON. `failures` say, a sentence each, which of its parts could not be made.
    """

    name: str
    title: str
    tables: list[Table]
    figures: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    picture: Figure | None = None
    seeds: Sequence[int] = (0,)

    def write(self, folder: Path, command: str) -> list[Path]:
        """Write NAME.md, NAME.json and, if there is a picture, NAME.png into `folder`; return their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        made = [folder / f"{self.name}.md", folder / f"{self.name}.json"]
        origin = {
            "command": command,
            "commit": git_commit(),
            "machine": machine(),
            "seeds": list(self.seeds),
            "versions": package_versions(),
        }
        if self.picture is not None:
            made.append(folder / f"{self.name}.png")
            self.picture.savefig(made[-1], dpi=_DOTS_PER_INCH)
        record = {"name": self.name, "title": self.title, **origin, "failures": self.failures, **self.figures}
        write_whole(made[1], json.dumps(record, indent=2, allow_nan=False) + "\n")
        write_whole(made[0], self._page(origin))
        return made

    def _page(self, origin: dict[str, Any]) -> str:
        parts = [
            f"# {self.title}",
            f"`{origin['command']}`, commit {(origin['commit'] or 'unknown')[:12]}, seeds "
            f"{', '.join(map(str, self.seeds))}; {origin['machine']}, PyTorch {origin['versions']['torch']}.",
            *(table.markdown() for table in self.tables),
        ]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        if self.failures:
            parts.append("\n".join(f"- failed: {failure}" for failure in self.failures))
        if self.picture is not None:
            parts.append(f"![{self.title}]({self.name}.png)")
        return "\n\n".join(parts) + "\n"


def canvas(width: float, height: float, panels: int = 1) -> Figure:
    """A figure of `panels` axes beside each other, inches, drawn without any state that others share."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes in figure.subplots(1, panels, squeeze=False)[0]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
