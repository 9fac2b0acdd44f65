"""`gradientspace route`: which expert would answer, without an engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.fail import fail
from cli.inspect import opened_bundle

if TYPE_CHECKING:
    from bundle.manifest import Manifest
    from router.protocol import Answer, Answers, Router


_BORDERS = 16  # of five columns
_SHARE = 6  # of a line, that a probability and a space take
_MOST_NAME = 14  # of a line of 80
_LEAST_TEXT = 11


def route(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle, or of the run that wrote it.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts to route; without any, the lines of stdin.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one forward pass.")] = 1,
) -> None:
    """Show the expert that each text would be routed to, and the router's probabilities."""
    opened = opened_bundle(bundle)
    from bundle.errors import BundleError
    from router.load import load_router

    try:
        router = load_router(opened, threads)
    except BundleError as error:
        fail(str(error))
    asked = texts or [line.rstrip("\n") for line in sys.stdin]
    answers, who = _answers(opened.manifest, router, asked)
    rows = [
        _decision(opened.manifest, text, answers.one(place), who[place]) for place, text in enumerate(asked)
    ]
    if as_json:
        import json

        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        _print_table(rows, router.labels)


def _answers(manifest: Manifest, router: Router, texts: list[str]) -> tuple[Answers, list[str]]:
    """Return the answers, and which part of the router gave each text's: its cascade, or the whole of it."""
    from router.cascade import CascadeRouter

    kind = manifest.router.kind
    if not isinstance(router, CascadeRouter):
        return router.answers(texts), [kind] * len(texts)
    answers, sure = router.answered(texts)
    return answers, ["cascade" if by_cascade else kind for by_cascade in sure]


def _decision(manifest: Manifest, text: str, answer: Answer, by: str) -> dict[str, Any]:
    from router.policy import Policy

    probabilities: list[float] = answer.probabilities.tolist()
    confidence = max(probabilities)
    label = probabilities.index(confidence)
    policy = Policy.of(manifest)
    reason = policy.verdict(label, confidence, answer.unfamiliar)
    other = manifest.base if reason == "unfamiliar" and policy.unfamiliar == "base" else manifest.fallback
    return {
        "text": text,
        "expert": manifest.label_order[label] if reason == "routed" else other.name,
        "reason": reason,
        "confidence": confidence,
        "by": by,
        "precision": manifest.router.precision,
        "probabilities": dict(zip(manifest.label_order, probabilities, strict=True)),
    }


def _print_table(rows: list[dict[str, Any]], labels: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Names are never cut, a very long one is folded; the text gets what is left.
    expert = min(max(map(len, (*labels, "fallback"))), _MOST_NAME)
    # By what part of the router it was routed; of what no expert gets, why not.
    bys = [row["by"] if row["reason"] == "routed" else row["reason"] for row in rows]
    by = max(map(len, bys), default=0)
    console, table = Console(), Table()
    room = console.width - 2 * expert - by - 2 * _SHARE - _BORDERS
    table.add_column("text", overflow="ellipsis", no_wrap=True, max_width=max(room, _LEAST_TEXT))
    table.add_column("expert", width=expert, overflow="fold", style="bold")
    table.add_column("by", min_width=by, no_wrap=True)
    table.add_column("sure", justify="right", width=_SHARE - 1, no_wrap=True)
    table.add_column("next", width=expert + _SHARE, overflow="fold")
    for row, said in zip(rows, bys, strict=True):
        others = sorted(row["probabilities"].items(), key=lambda each: -each[1])[1:2]
        runner_up = "".join(f"{probability:.3f} {name}" for name, probability in others)
        text = escape(row["text"].replace("\n", " "))
        table.add_row(text, escape(row["expert"]), said, f"{row['confidence']:.3f}", escape(runner_up))
    console.print(table)
