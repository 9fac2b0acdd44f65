"""What Stage II found, in figures: sizes, sources, cosines and margins of the clusters, and a line for every row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.metrics import adjusted_rand_score

from training.clusters.assignment import Assignment
from training.rows.rendering import TokenRow
from training.rows.split import Split

_DECILES = np.linspace(0, 1, 11)


def cluster_by_source(
    rows: Sequence[TokenRow], assignment: Assignment, members: Sequence[int]
) -> dict[str, list[int]]:
    """Rows of each source in each cluster: source -> [K] counts. Rows without a source stand under `-`."""
    counts = Counter((rows[row].source or "-", int(assignment.labels[row])) for row in members)
    sources = sorted({source for source, _ in counts})
    return {source: [counts[source, label] for label in range(assignment.k)] for source in sources}


def cluster_facts(rows: Sequence[TokenRow], split: Split, assignment: Assignment) -> dict[str, Any]:
    """Sizes, sources, cosines and margins of the clusters, over the training rows.

    `margins` [K][11] are the deciles 0, 10, ..., 100 % of the rows' margins, None for a cluster without rows.
    `source_agreement` is the adjusted Rand index between clusters and sources (1: the clusters are the sources, 0: as
    by chance), None where not every row carries a source or all carry the same.
    """
    members = np.array(split.train)
    labels = assignment.labels[members]
    sizes = np.bincount(labels, minlength=assignment.k)
    margin = assignment.margin[members]
    sources = [rows[row].source for row in members]
    told = None not in sources and len(set(sources)) > 1
    return {
        "k": assignment.k,
        "rows": [int(size) for size in sizes],
        "share": [float(size / len(members)) for size in sizes],
        "mean_cosine": [
            float(assignment.cosine[members[labels == label]].mean()) if sizes[label] else 0.0
            for label in range(assignment.k)
        ],
        "mean_margin": float(margin.mean()),
        "margins": [
            np.quantile(margin[labels == label], _DECILES).tolist() if sizes[label] else None
            for label in range(assignment.k)
        ],
        "median_norm": float(np.median(assignment.norm[members])),
        "norm_share_b": float(assignment.norm_share_b[members].mean()),
        "by_source": cluster_by_source(rows, assignment, split.train),
        "source_agreement": float(adjusted_rand_score(sources, labels)) if told else None,
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
