"""What a run found, for people (report.html) and for machines (report.json)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.assignment import Assignment
from training.rendering import TokenRow
from training.split import Split

_TEMPLATES = Path(__file__).parent


def cluster_by_source(
    rows: Sequence[TokenRow], assignment: Assignment, members: Sequence[int]
) -> dict[str, list[int]]:
    """Rows of each source in each cluster: source -> [K] counts. Rows without a source stand under `-`."""
    counts = Counter((rows[row].source or "-", int(assignment.labels[row])) for row in members)
    sources = sorted({source for source, _ in counts})
    return {source: [counts[source, label] for label in range(assignment.k)] for source in sources}


def cluster_facts(rows: Sequence[TokenRow], split: Split, assignment: Assignment) -> dict[str, Any]:
    """Sizes, sources, cosines and margins of the clusters, over the training rows."""
    members = np.array(split.train)
    labels = assignment.labels[members]
    sizes = np.bincount(labels, minlength=assignment.k)
    return {
        "k": assignment.k,
        "rows": [int(size) for size in sizes],
        "share": [float(size / len(members)) for size in sizes],
        "mean_cosine": [
            float(assignment.cosine[members[labels == label]].mean()) if sizes[label] else 0.0
            for label in range(assignment.k)
        ],
        "mean_margin": float(assignment.margin[members].mean()),
        "median_norm": float(np.median(assignment.norm[members])),
        "norm_share_b": float(assignment.norm_share_b[members].mean()),
        "by_source": cluster_by_source(rows, assignment, split.train),
        "warnings": list(assignment.warnings),
    }


def write_assignments(path: Path, rows: Sequence[TokenRow], split: Split, assignment: Assignment) -> None:
    """Write one line per row: where it came from, its part, its cluster, cosine, margin and norm."""
    part = np.full(len(rows), "train", dtype=object)
    for name in ("validation", "warmup", "probe"):
        part[list(getattr(split, name))] = name
    table = pa.table(
        {
            "origin": [row.origin for row in rows],
            "source": pa.array([row.source for row in rows], pa.string()),
            "part": part,
            "label": assignment.labels,
            "cosine": assignment.cosine,
            "margin": assignment.margin,
            "norm": assignment.norm,
            "norm_share_b": assignment.norm_share_b,
        }
    )
    pq.write_table(table, path)


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Write report.json and report.html (one page, nothing from the network)."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(report)
    (folder / "report.html").write_text(page, encoding="utf-8")
