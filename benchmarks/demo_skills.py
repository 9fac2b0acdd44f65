"""Does routing to gradient clusters help on the demo? `python -m benchmarks.demo_skills runs/demo`.

Four systems on the same held-out rows, never seen in training: the base; one LoRA on everything; the bundle,
routed (`auto`); experts by the true skill, chosen by the true skill (what a perfect partition by task would
give). The last three start from the same warm-up adapter, with the same learning rate and the same number of
row visits.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging as transformers_logging

from bundle.errors import BundleError
from bundle.read import read_bundle
from demo.rows import SKILLS, is_correct, make_rows
from evaluation.answers.engines import greedy_answers
from evaluation.intervals import wilson_interval
from router.load import load_router
from router.protocol import Router
from router.text import routed_text
from training.errors import TrainingError
from training.models.finetune import Schedule, load_adapter
from training.progress import Narrator
from training.rows.reading import Row, parse_row
from training.rows.rendering import TokenRow, prompt_ids
from training.run import finished_run
from training.stages.finetune_stage import AdapterJob, finetune_stage
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.processes import World
from training.stages.provenance import git_commit
from training.stages.store import Stage, StageStore

SYSTEMS = ("base", "one LoRA", "auto", "experts by true skill")
_MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Cell:
    """Right answers of one system on one skill, with a 95 % Wilson interval."""

    right: int
    total: int
    low: float
    high: float


def main(
    run: Annotated[Path, typer.Argument(help="The run folder of the demo, such as runs/demo.")],
    per_skill: Annotated[int, typer.Option(help="Held-out rows per skill.", min=1)] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print accuracy per skill of four systems on held-out rows."""
    transformers_logging.disable_progress_bar()
    narrator = Narrator()
    try:
        bundle = read_bundle(run)
        finished = finished_run(run, narrator)
    except (BundleError, TrainingError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    inputs, warmup = finished.inputs, finished.warmup
    store = StageStore(run / "comparison", narrator, World())
    one = _tuned(inputs, store, warmup, "one-lora", inputs.pick(inputs.split.train))
    by_skill = {
        skill: _tuned(
            inputs,
            store,
            warmup,
            f"skill-{skill}",
            [row for row in inputs.pick(inputs.split.train) if row.source == skill],
        )
        for skill in SKILLS
    }
    asked = make_rows(per_skill, seed=1, split="heldout")
    prompts = [prompt_ids(inputs.tokenizer, _row_of(record).prompt) for record in asked]
    chosen = _route(load_router(bundle, threads=2), inputs, asked)
    adapters: dict[str, list[Path | None]] = {
        "base": [None] * len(asked),
        "one LoRA": [one] * len(asked),
        "auto": [bundle.expert_folder(label) for label in chosen],
        "experts by true skill": [by_skill[record["source"]] for record in asked],
    }
    right = {
        system: [
            is_correct(record, answer)
            for record, answer in zip(
                asked, _answers(inputs, system, prompts, folders, narrator), strict=True
            )
        ]
        for system, folders in adapters.items()
    }
    cells = {
        skill: {system: _cell([right[system][place] for place in places]) for system in SYSTEMS}
        for skill, places in _places_by_skill(asked).items()
    }
    cells["all"] = {system: _cell(right[system]) for system in SYSTEMS}
    routes = {
        skill: [
            sum(chosen[place] == label for place in places) for label in range(len(bundle.manifest.experts))
        ]
        for skill, places in _places_by_skill(asked).items()
    }
    _print(cells, routes)
    if json_file is not None:
        json_file.write_text(
            json.dumps(_record(cells, routes, bundle.digest), indent=2) + "\n", encoding="utf-8"
        )


def _tuned(
    inputs: Inputs, store: StageStore, warmup: TrainedAdapter, name: str, rows: Sequence[TokenRow]
) -> Path:
    section = inputs.recipe.experts
    schedule = Schedule(section.epochs, section.learning_rate, section.batch_rows)
    depends_on = {
        "warmup": warmup.digest,
        "rows": [row.origin for row in rows],
        "experts": section.model_dump(),
    }
    job = AdapterJob(Stage(name, f"{name} ({len(rows):,} rows)", depends_on), rows, schedule)
    stage, work = finetune_stage(
        inputs, store, job, lambda: load_adapter(inputs.base, warmup.folder, trainable=True)
    )
    return store.run(stage, work).folder


def _route(router: Router, inputs: Inputs, asked: Sequence[dict[str, str]]) -> list[int]:
    texts = [routed_text(_row_of(record).prompt, inputs.recipe.router.routed_text) for record in asked]
    return [int(label) for label in router.probabilities(texts).argmax(1)]


def _answers(
    inputs: Inputs,
    system: str,
    prompts: Sequence[Sequence[int]],
    folders: Sequence[Path | None],
    narrator: Narrator,
) -> list[str]:
    answers = [""] * len(prompts)
    with narrator.bar(f"answers of {system}", len(prompts), "rows") as advance:
        for folder in dict.fromkeys(folders):
            places = [place for place, chosen in enumerate(folders) if chosen == folder]
            texts = greedy_answers(
                inputs.base,
                inputs.tokenizer,
                folder,
                [prompts[place] for place in places],
                _MAX_NEW_TOKENS,
                advance,
            )
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
    return answers


def _row_of(record: dict[str, str]) -> Row:
    row = parse_row("held-out", record)
    assert isinstance(row, Row)
    return row


def _places_by_skill(asked: Sequence[dict[str, str]]) -> dict[str, list[int]]:
    return {
        skill: [place for place, record in enumerate(asked) if record["source"] == skill] for skill in SKILLS
    }


def _cell(right: Sequence[bool]) -> Cell:
    low, high = wilson_interval(sum(right), len(right))
    return Cell(sum(right), len(right), low, high)


def _print(cells: dict[str, dict[str, Cell]], routes: dict[str, list[int]]) -> None:
    typer.echo(f"| skill (held-out rows) | {' | '.join(SYSTEMS)} | routed to expert 0, 1, ... |")
    typer.echo(f"|---|{'---|' * (len(SYSTEMS) + 1)}")
    for skill, row in cells.items():
        shown = [
            f"{100 * cell.right / cell.total:.1f} % [{100 * cell.low:.0f}, {100 * cell.high:.0f}]"
            for cell in row.values()
        ]
        where = ", ".join(str(count) for count in routes.get(skill, []))
        typer.echo(f"| {skill} ({row['base'].total}) | {' | '.join(shown)} | {where} |")


def _record(cells: dict[str, dict[str, Cell]], routes: dict[str, list[int]], digest: str) -> dict[str, Any]:
    return {
        "accuracy": {
            skill: {system: asdict(cell) for system, cell in row.items()} for skill, row in cells.items()
        },
        "routed_to": routes,
        "bundle": digest,
        "commit": git_commit(),
        "machine": platform.processor() or platform.machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    typer.run(main)
