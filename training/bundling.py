"""Put the bundle together: adapters, router, template, report, manifest."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bundle.digests import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_digest
from bundle.fingerprints import Fingerprints
from bundle.manifest import (
    CHAT_TEMPLATE_FILE,
    FALLBACK_FOLDER,
    ROUTER_FOLDER,
    BaseRecord,
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
from training.recipe import Recipe
from training.report import write_report

_PACKAGES = ("gradientspace", "torch", "transformers", "peft", "datasets", "scikit-learn", "onnxruntime")


@dataclass(frozen=True)
class Parts:
    """All that goes into a bundle, by where it lies on disk."""

    base: BaseRecord
    chat_template: str
    warmup: Path
    experts: Sequence[Path]
    router_folder: Path
    router: RouterRecord
    calibration: Calibration
    assignments: Path
    cluster_rows: Sequence[int]
    cluster_shares: Sequence[float]
    terms: Sequence[Sequence[str]]
    fingerprints: Fingerprints


def write_bundle(final: Path, parts: Parts, recipe: Recipe, report: dict[str, Any]) -> Bundle:
    """Write the bundle whole, or leave what was there."""
    with BundleWriter(final) as writer:
        folder = writer.folder
        names = [f"expert-{label}" for label in range(len(parts.experts))]
        for name, adapter in zip(names, parts.experts, strict=True):
            _copy_adapter(adapter, folder / "experts" / name)
        _copy_adapter(parts.warmup, folder / FALLBACK_FOLDER)
        shutil.copytree(parts.router_folder, folder / ROUTER_FOLDER)
        (folder / CHAT_TEMPLATE_FILE).write_text(parts.chat_template, encoding="utf-8")
        parts.fingerprints.write(folder)
        write_report(folder / "report", report)
        shutil.copy(parts.assignments, folder / "report" / "assignments.parquet")
        experts = tuple(
            ExpertRecord(
                name=name,
                folder=f"experts/{name}",
                digest=adapter_digest(folder / "experts" / name),
                rows=parts.cluster_rows[label],
                share=parts.cluster_shares[label],
                top_terms=tuple(parts.terms[label]),
            )
            for label, name in enumerate(names)
        )
        return writer.finish(
            lambda files: Manifest(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                base=parts.base,
                lora=_lora_record(recipe, folder / FALLBACK_FOLDER),
                label_order=tuple(names),
                experts=experts,
                fallback=FallbackRecord(kind="warmup", digest=adapter_digest(folder / FALLBACK_FOLDER)),
                router=parts.router,
                routed_text=RoutedText(rule=recipe.router.routed_text, max_tokens=recipe.router.max_tokens),
                calibration=parts.calibration,
                data_licenses=recipe.data.licenses,
                recipe=recipe.model_dump(mode="json"),
                versions=package_versions(),
                git_commit=git_commit(),
                files=files,
            )
        )


def package_versions() -> dict[str, str]:
    """Versions of what shapes the result."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Commit of this software, if it runs from a git checkout."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _copy_adapter(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        shutil.copy(source / name, target / name)


def _lora_record(recipe: Recipe, adapter: Path) -> LoraRecord:
    config = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return LoraRecord(
        rank=recipe.lora.rank, alpha=recipe.lora.alpha, target_modules=tuple(sorted(config["target_modules"]))
    )
