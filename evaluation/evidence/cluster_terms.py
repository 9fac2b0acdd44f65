"""What is in the clusters: their terms (Table 2), and how sources spread over them (Figure 5)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from evaluation.evidence.exhibit import INK, SERIES, Exhibit, Table, canvas
from training.clusters.facts import cluster_by_source
from training.clusters.terms import top_terms
from training.run import Run

_TERMS = 10


def cluster_terms(run: Run) -> Exhibit:
    """Table 2 and Figure 5 of a finished run, over its training rows.

    Raises:
        EvidenceError: the run has no assignment.

    """
    inputs, assignment = run.inputs, run.assigned.assignment
    members = list(inputs.split.train)
    labels = assignment.labels[members]
    sizes = np.bincount(labels, minlength=assignment.k)
    terms = top_terms([inputs.texts[row] for row in members], labels, assignment.k, _TERMS)
    tables = [
        Table(
            "Terms that set a cluster apart, by TF-IDF",
            ("cluster", "rows", "terms"),
            [(f"expert-{k}", f"{sizes[k]:,}", ", ".join(terms[k])) for k in range(assignment.k)],
        )
    ]
    figures: dict[str, Any] = {"k": assignment.k, "rows": sizes.tolist(), "terms": terms}
    failures, picture = [], None
    by_source = cluster_by_source(inputs.rows, assignment, members)
    unnamed = sum(by_source.get("-", []))
    if unnamed == len(members):
        failures.append("Figure 5: not one row carries a source. Give the rows a `source` and train again.")
    else:
        tables.append(
            Table(
                "Rows of each source in each cluster",
                ("source", *(f"expert-{k}" for k in range(assignment.k)), "all"),
                [
                    (source, *(f"{count:,}" for count in counts), f"{sum(counts):,}")
                    for source, counts in by_source.items()
                ],
            )
        )
        figures |= {
            "by_source": by_source,
            "source_agreement": run.assigned.source_agreement,
        }
        picture = _bars(by_source, assignment.k)
    notes = [
        "Words from prompts and answers. A term is listed where its mean TF-IDF in the cluster exceeds that over all "
        "rows by the most; English stop words are left out (the paper's first cluster is made of them).",
    ]
    if 0 < unnamed < len(members):
        notes.append(f"{unnamed} rows carry no source and stand under `-`.")
    agreement = figures.get("source_agreement")
    if agreement is not None:
        notes.append(
            f"Adjusted Rand index between clusters and sources: {agreement:.3f} (1: the clusters are the sources)."
        )
    return Exhibit(
        "table2-figure5",
        "Table 2 and Figure 5: what the clusters hold",
        tables,
        figures,
        notes,
        failures,
        picture,
        (inputs.recipe.seed,),
    )


def _bars(by_source: dict[str, list[int]], k: int) -> Figure:
    figure = canvas(6.4, 1.2 + 0.42 * k)
    axes = figure.axes[0]
    left = np.zeros(k)
    for number, (source, counts) in enumerate(by_source.items()):
        axes.barh(range(k), counts, left=left, color=SERIES[number % len(SERIES)], label=source, height=0.7)
        left += np.asarray(counts)
    axes.set_yticks(range(k), [f"expert-{label}" for label in range(k)], color=INK)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlabel("training rows")
    axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    return figure
