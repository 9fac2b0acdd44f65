"""Put the bundle together: adapters, router, template, report, manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from bundle.adapter import largest_rank, tensor_shapes
from bundle.digests import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_digest
from bundle.fingerprints import Fingerprints
from bundle.gate import GateRecord
from bundle.manifest import (
    CHAT_TEMPLATE_FILE,
    FALLBACK_FOLDER,
    FALLBACK_NAME,
    GATE_FILE,
    HELD_OUT_FILE,
    OTHER_ROUTERS_FOLDER,
    ROUTER_FOLDER,
    AnswerEnd,
    Calibration,
    ExpertRecord,
    FallbackRecord,
    LoraRecord,
    Manifest,
    RoutedText,
    RouterRecord,
)
from bundle.read import Bundle
from bundle.write import BundleWriter
from training.bundling.card import CARD_FILE, write_card
from training.bundling.fingerprints import make_fingerprints
from training.models.base_model import BaseModel
from training.progress import Narrator
from training.report.report import write_report
from training.report.splitting import answer
from training.stages.provenance import git_commit, package_versions


@dataclass(frozen=True)
class Expert:
    """One expert: its adapter's folder, and what is known of the rows it is for."""

    name: str
    adapter: Path
    rows: int
    share: float
    terms: Sequence[str]


@dataclass(frozen=True)
class Fallback:
    """Who answers when the router can't choose: an adapter of its own, or the expert of that name."""

    kind: Literal["warmup", "everything", "adapter", "expert"]
    adapter: Path | None = None
    expert: str | None = None


@dataclass(frozen=True)
class Report:
    """What people read of a training run, and the rows behind it: the partition, and the held-out ones."""

    content: dict[str, Any]
    assignments: Path
    held_out: pa.Table
    other_routers: Path
    """Heads of the kinds of router that are not served."""
    gate: Path | None = None
    """What decided who answers, a line for each held-out row."""


@dataclass(frozen=True)
class Parts:
    """All that goes into a bundle, by where it lies on disk."""

    base: BaseModel
    chat_template: str
    labels: Sequence[str]
    """What the router's outputs are called: the experts, and those that were left out."""
    experts: Sequence[Expert]
    fallback: Fallback
    router_folder: Path
    router: RouterRecord
    routed_text: RoutedText
    answer_end: AnswerEnd
    calibration: Calibration
    data: Sequence[str]
    """Files or hub ids of the rows."""
    data_licenses: tuple[str, ...]
    recipe: dict[str, Any]
    report: Report | None = None
    gate: GateRecord | None = None


def write_bundle(final: Path, parts: Parts, narrator: Narrator) -> Bundle:
    """Write the bundle whole, or leave what was there."""
    with BundleWriter(final) as writer:
        folder = writer.folder
        base_id = parts.base.record.id
        for expert in parts.experts:
            _copy_adapter(expert.adapter, folder / _folder_of(expert.name), base_id)
        if parts.fallback.adapter is not None:
            _copy_adapter(parts.fallback.adapter, folder / FALLBACK_FOLDER, base_id)
        shutil.copytree(parts.router_folder, folder / ROUTER_FOLDER)
        (folder / CHAT_TEMPLATE_FILE).write_text(parts.chat_template, encoding="utf-8")
        _fingerprints(parts, narrator).write(folder)
        if parts.report is not None:
            write_report(folder / "report", parts.report.content)
            shutil.copy(parts.report.assignments, folder / "report" / "assignments.parquet")
            pq.write_table(parts.report.held_out, folder / HELD_OUT_FILE)
            shutil.copytree(parts.report.other_routers, folder / OTHER_ROUTERS_FOLDER)
            if parts.report.gate is not None:
                shutil.copy(parts.report.gate, folder / GATE_FILE)
        manifest = _manifest(folder, parts)
        measured = parts.report.content["gate"] if parts.report is not None else None
        splitting = answer(measured)[1] if measured else None
        write_card(folder / CARD_FILE, manifest, parts.base.folder, parts.data, splitting)
        return writer.finish(lambda files: manifest.model_copy(update={"files": files}))


def _fingerprints(parts: Parts, narrator: Narrator) -> Fingerprints:
    """Record what the base and every adapter say, and warn of adapters that say the same."""
    narrator.say("    fingerprints of the base and every adapter")
    adapters = {expert.name: expert.adapter for expert in parts.experts}
    if parts.fallback.adapter is not None:
        adapters[FALLBACK_NAME] = parts.fallback.adapter
    fingerprints = make_fingerprints(parts.base, parts.chat_template, adapters, parts.answer_end)
    for warning in fingerprints.warnings(parts.base.record.dtype):
        narrator.warn(warning)
    endless = [name for name in adapters if name not in fingerprints.answers]
    if endless:
        narrator.warn(
            f"no short answer of {', '.join(endless)} to the fixed prompts came to a sure end: the service can't "
            "check beforehand that theirs end"
        )
    return fingerprints


def _manifest(folder: Path, parts: Parts) -> Manifest:
    """Return the manifest of what lies in `folder`, but for the checksums."""
    fallback = parts.fallback
    fallback_folder = FALLBACK_FOLDER if fallback.expert is None else _folder_of(fallback.expert)
    folders = [*(_folder_of(expert.name) for expert in parts.experts), fallback_folder]
    shape, own = lora_records([folder / adapter for adapter in folders])
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=parts.base.record,
        lora=shape,
        label_order=tuple(parts.labels),
        experts=tuple(
            ExpertRecord(
                name=expert.name,
                folder=_folder_of(expert.name),
                digest=adapter_digest(folder / _folder_of(expert.name)),
                lora=own[place],
                rows=expert.rows,
                share=expert.share,
                top_terms=tuple(expert.terms),
            )
            for place, expert in enumerate(parts.experts)
        ),
        fallback=FallbackRecord(
            kind=fallback.kind,
            expert=fallback.expert,
            folder=fallback_folder,
            digest=adapter_digest(folder / fallback_folder),
            lora=own[-1],
        ),
        router=parts.router,
        routed_text=parts.routed_text,
        answer_end=parts.answer_end,
        calibration=parts.calibration,
        gate=parts.gate,
        data_licenses=parts.data_licenses,
        recipe=parts.recipe,
        versions=package_versions(),
        git_commit=git_commit(),
        files={},
    )


def lora_records(adapters: Sequence[Path]) -> tuple[LoraRecord, list[LoraRecord | None]]:
    """Return the shape that holds all adapters, and each one's own where they differ (else None)."""
    shapes = [lora_record(adapter) for adapter in adapters]
    if len(set(shapes)) == 1:
        return shapes[0], [None] * len(shapes)
    alphas = {shape.alpha for shape in shapes}
    shared = LoraRecord(
        rank=max(shape.rank for shape in shapes),
        alpha=alphas.pop() if len(alphas) == 1 else None,
        target_modules=tuple(sorted({module for shape in shapes for module in shape.target_modules})),
    )
    return shared, list(shapes)


def lora_record(adapter: Path) -> LoraRecord:
    """Return an adapter's shape: the largest rank and the names of the modules that its weights have."""
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    modules = {
        name.rpartition(".lora_")[0].rpartition(".")[2] for name in tensor_shapes(adapter / ADAPTER_WEIGHTS)
    }
    return LoraRecord(
        rank=largest_rank(adapter / ADAPTER_WEIGHTS)[0],
        alpha=config["lora_alpha"],
        target_modules=tuple(sorted(modules)),
    )


def _folder_of(expert: str) -> str:
    return f"experts/{expert}"


def _copy_adapter(source: Path, target: Path, base_id: str) -> None:
    target.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copy(source / name, target / name)
    config = json.loads((target / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if config.get("base_model_name_or_path") != base_id:
        # Often a folder of the machine it was trained on, or nothing at all: PEFT looks there for the base.
        config["base_model_name_or_path"] = base_id
        (target / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
