"""Write what an evaluation found: results.json for programs, table1.md for people, each whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from evaluation.record import machine, write_whole
from evaluation.table_one.markdown import table_markdown
from evaluation.table_one.recipe import EvaluationRecipe
from training.stages.provenance import git_commit, package_versions


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
