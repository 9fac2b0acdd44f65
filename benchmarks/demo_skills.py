"""Does routing to gradient clusters help on a demo? `python -m benchmarks.demo_skills runs/shop --demo shop`.

Four systems on the same held-out rows, never seen in training: the base; one LoRA on everything; the bundle as it
is served (`auto`), its fallback included; experts by the true skill, chosen by the true skill (what a perfect
partition by task would give). The last three go on from the same shared adapter, with the same learning rate and
the same number of row visits.
"""

from __future__ import annotations

import json
import platform
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from transformers.utils import logging as transformers_logging

from bundle.errors import BundleError
from bundle.read import Bundle, read_bundle
from demo.row_file import Demo, Record
from demo.rows import TALES
from demo.shop.rows import SHOP
from evaluation.answers.engines import Engine, engine_for
from evaluation.intervals import wilson_interval
from evaluation.seed.partition import Model
from router.load import load_router
from router.policy import Policy
from router.text import routed_text
from training.errors import TrainingError
from training.models.expert_schedules import schedule_after_it
from training.models.finetune import load_adapter
from training.progress import Narrator
from training.rows.reading import Row, parse_row
from training.rows.rendering import TokenRow, prompt_ids
from training.run import Run, finished_run
from training.stages.finetune_stage import AdapterJob, finetune_stage
from training.stages.inputs import Inputs
from training.stages.processes import World
from training.stages.provenance import git_commit
from training.stages.store import Stage, StageStore

SYSTEMS = ("base", "one LoRA", "auto", "experts by true skill")
DEMOS: dict[str, Demo] = {"tales": TALES, "shop": SHOP}
_MAX_NEW_TOKENS = 64
_AT_ONCE = 100  # rows, between two steps of the bar


@dataclass(frozen=True)
class Cell:
    """Right answers of one system on one skill, with a 95 % Wilson interval."""

    right: int
    total: int
    low: float
    high: float


def main(
    run: Annotated[Path, typer.Argument(help="The run folder of a demo, such as runs/shop.")],
    demo: Annotated[str, typer.Option(help=f"Whose rows to ask: {', '.join(DEMOS)}.")] = "shop",
    per_skill: Annotated[int, typer.Option(help="Held-out rows per skill.", min=1)] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print accuracy per skill of four systems on held-out rows."""
    transformers_logging.disable_progress_bar()
    narrator = Narrator()
    try:
        if demo not in DEMOS:
            raise TrainingError(f"--demo {demo!r}: there is no such demo. There are: {', '.join(DEMOS)}.")
        bundle = read_bundle(run)
        finished = finished_run(run, narrator)
    except (BundleError, TrainingError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    asked_of = DEMOS[demo]
    inputs = finished.inputs
    store = StageStore(run / "comparison", narrator, World())
    asked = asked_of.make_rows(per_skill, 1, "heldout")
    routed = _route(bundle, inputs, asked)
    one = _one_lora(finished, store)
    by_skill = _by_skill(finished, store, asked_of.skills)
    adapters: dict[str, list[Path | None]] = {
        "base": [None] * len(asked),
        "one LoRA": [one] * len(asked),
        "auto": [folder for _, folder in routed],
        "experts by true skill": [by_skill[record["source"]] for record in asked],
    }
    answers = _answers(inputs, store.folder, asked, adapters, narrator)
    right = {
        system: [asked_of.is_correct(record, text) for record, text in zip(asked, texts, strict=True)]
        for system, texts in answers.items()
    }
    places_of = {
        skill: [place for place, record in enumerate(asked) if record["source"] == skill]
        for skill in asked_of.skills
    }
    cells = {
        skill: {system: _cell([right[system][place] for place in places]) for system in SYSTEMS}
        for skill, places in places_of.items()
    }
    cells["all"] = {system: _cell(right[system]) for system in SYSTEMS}
    routes = {
        skill: dict(sorted(Counter(routed[place][0] for place in places).items()))
        for skill, places in places_of.items()
    }
    _print(cells, routes)
    if json_file is not None:
        json_file.write_text(
            json.dumps(_record(cells, routes, bundle.digest), indent=2) + "\n", encoding="utf-8"
        )


def _one_lora(finished: Run, store: StageStore) -> Path:
    """The bundle's fallback, if it has learned from everything as long as an expert; else an adapter that does."""
    if finished.fallback is not None:
        return finished.fallback.folder
    return _tuned(finished, store, "one-lora", finished.inputs.pick(finished.inputs.split.train))


def _by_skill(finished: Run, store: StageStore, skills: Sequence[str]) -> dict[str, Path]:
    """Experts as the bundle's, by true skill in place of the clusters."""
    rows = finished.inputs.pick(finished.inputs.split.train)
    return {
        skill: _tuned(finished, store, f"skill-{skill}", [row for row in rows if row.source == skill])
        for skill in skills
    }


def _tuned(finished: Run, store: StageStore, name: str, rows: Sequence[TokenRow]) -> Path:
    """An adapter that goes on from the shared one on these rows, as long as an expert does on its own."""
    inputs, start = finished.inputs, finished.shared
    section, trained_on = inputs.recipe.experts, len(inputs.split.train)
    schedule = schedule_after_it(section, section.learning_rate, trained_on, start.tuned.row_visits)
    depends_on = {
        "start": start.digest,
        "rows": [row.origin for row in rows],
        "schedule": asdict(schedule),
    }
    job = AdapterJob(Stage(name, f"{name} ({len(rows):,} rows)", depends_on), rows, schedule)
    stage, work = finetune_stage(
        inputs, store, job, lambda: load_adapter(inputs.base, start.folder, trainable=True)
    )
    return store.run(stage, work).folder


def _route(bundle: Bundle, inputs: Inputs, asked: Sequence[Record]) -> list[tuple[str, Path]]:
    """Who answers each row as the service would decide: its name and its adapter."""
    manifest, policy = bundle.manifest, Policy.of(bundle.manifest)
    folder_of = {expert.name: bundle.folder / expert.folder for expert in manifest.experts}
    fallback = (manifest.fallback.name, bundle.fallback_folder)
    texts = [routed_text(_row_of(record).prompt, inputs.recipe.router.routed_text) for record in asked]
    said = load_router(bundle, threads=1).answers(texts)
    routed = []
    for place in range(len(texts)):
        probabilities, unfamiliar = said.one(place)
        label = int(probabilities.argmax())
        name = manifest.label_order[label]
        answers = policy.verdict(label, float(probabilities[label]), unfamiliar) == "routed"
        routed.append((name, folder_of[name]) if answers else fallback)
    return routed


def _answers(
    inputs: Inputs,
    folder: Path,
    asked: Sequence[Record],
    adapters: Mapping[str, Sequence[Path | None]],
    narrator: Narrator,
) -> dict[str, list[str]]:
    """Greedy answers of every system. A row that two systems give to the same adapter is answered once."""
    prompts = [prompt_ids(inputs.tokenizer, _row_of(record).prompt) for record in asked]
    wanted: dict[Path | None, set[int]] = {}
    for chosen in adapters.values():
        for place, adapter in enumerate(chosen):
            wanted.setdefault(adapter, set()).add(place)
    said: dict[tuple[Path | None, int], str] = {}
    engine = engine_for(inputs.base, inputs.tokenizer, folder / "engine.log")
    with closing(engine), narrator.bar("answers", sum(map(len, wanted.values())), "rows") as advance:
        for adapter, asked_of_it in wanted.items():
            places = sorted(asked_of_it)
            for start in range(0, len(places), _AT_ONCE):
                some = places[start : start + _AT_ONCE]
                texts = _answered(engine, adapter, [prompts[place] for place in some])
                said.update(zip([(adapter, place) for place in some], texts, strict=True))
                advance(len(some))
    return {
        system: [said[adapter, place] for place, adapter in enumerate(chosen)]
        for system, chosen in adapters.items()
    }


def _answered(engine: Engine, adapter: Path | None, prompts: Sequence[Sequence[int]]) -> list[str]:
    kind: Literal["base", "adapter"] = "base" if adapter is None else "adapter"
    return engine.answers(Model(str(adapter), kind, adapter, str(adapter)), prompts, _MAX_NEW_TOKENS)


def _row_of(record: Record) -> Row:
    row = parse_row("held-out", record)
    assert isinstance(row, Row)
    return row


def _cell(right: Sequence[bool]) -> Cell:
    low, high = wilson_interval(sum(right), len(right))
    return Cell(sum(right), len(right), low, high)


def _print(cells: dict[str, dict[str, Cell]], routes: dict[str, dict[str, int]]) -> None:
    typer.echo(f"| skill (held-out rows) | {' | '.join(SYSTEMS)} | answered by |")
    typer.echo(f"|---|{'---|' * (len(SYSTEMS) + 1)}")
    for skill, row in cells.items():
        shown = [
            f"{100 * cell.right / cell.total:.1f} % [{100 * cell.low:.0f}, {100 * cell.high:.0f}]"
            for cell in row.values()
        ]
        where = ", ".join(f"{name} {count}" for name, count in routes.get(skill, {}).items())
        typer.echo(f"| {skill} ({row['base'].total}) | {' | '.join(shown)} | {where} |")


def _record(
    cells: dict[str, dict[str, Cell]], routes: dict[str, dict[str, int]], digest: str
) -> dict[str, Any]:
    return {
        "accuracy": {
            skill: {system: asdict(cell) for system, cell in row.items()} for skill, row in cells.items()
        },
        "answered_by": routes,
        "bundle": digest,
        "commit": git_commit(),
        "machine": platform.processor() or platform.machine(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    typer.run(main)
