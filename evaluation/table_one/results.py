"""Write what an evaluation found: results.json for programs, table1.md for people, each whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from evaluation.table_one.markdown import table_markdown
from evaluation.table_one.recipe import EvaluationRecipe
from training.bundling.bundle import git_commit, package_versions


def write_results(
    recipe: EvaluationRecipe,
    table: Mapping[str, Any],
    seeds: Sequence[int],
    command: str,
    titles: Mapping[str, str],
) -> str:
    """Write both files into the recipe's folder and return the Markdown."""
    assert recipe.output is not None
    results = {
        **table,
        "commit": git_commit(),
        "machine": machine(),
        "seeds": list(seeds),
        "command": command,
        "recipe": recipe.model_dump(mode="json"),
        "versions": package_versions(),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    text = table_markdown(results, titles)
    write_whole(recipe.output / "results.json", json.dumps(results, indent=2) + "\n")
    write_whole(recipe.output / "table1.md", text)
    return text


def machine() -> str:
    """Say what this ran on: the accelerator, or the processor, and the threads used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads used"


def write_whole(path: Path, text: str) -> None:
    """Write a text file beside its place and rename it: half of it never exists."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
