"""Section 4 measured: gradient variance within and across the parts of a partition.

Var(D) = sum_i p_i Var(D_i) + sum_i p_i |mean_i - mean|^2, the law of total variance (equation 10): within and across.
Theorem 3's ratio is within / Var(D). Equation 5, Var(D_i) <= Var(D) for every i, is counted: nothing guarantees it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from evaluation.evidence.exhibit import ACCENT, INK, MUTED, Exhibit, Table, canvas
from evaluation.evidence.gradient_cosines import GradientCosines, gradient_cosines
from training.clusters.quality import gradient_variance
from training.run import Run
from training.stages.store import StageStore

_DEALS = 20  # of labels at random

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Shares:
    """Of one partition: variance within as a share of the whole's, and the clusters above the whole."""

    name: str
    k: int
    within: float
    exceeding: int


def variance_by_partition(run: Run, store: StageStore) -> Exhibit:
    """Variance within and across gradient clusters, sources, text clusters and random parts of equal sizes.

    On the training rows, which the clusters were fitted to, and on the validation rows, which they were not: there a
    row's cluster is the nearest centroid to its own gradient (equation 9), and everything else is as before.

    Raises:
        TrainingError: the run is not finished.

    """
    inputs, assignment = run.inputs, run.assigned.assignment
    found = gradient_cosines(inputs, store, run.warmup, inputs.rows)
    texts = inputs.encoder.embed([row.routed_text for row in inputs.rows], inputs.recipe.router.max_tokens)
    by_text = KMeans(assignment.k, n_init=10, random_state=inputs.recipe.seed)
    by_text.fit(texts[list(inputs.split.train)])
    partitions: dict[str, Labels] = {
        "gradient clusters": assignment.labels,
        "K-means on text": by_text.predict(texts).astype(np.int64),
    }
    sources = [row.source for row in inputs.rows]
    failures = []
    if all(sources) and len(set(sources)) > 1:
        partitions["sources"] = np.unique(np.array(sources, dtype=str), return_inverse=True)[1]
    else:
        failures.append(
            "sources: not every row carries one, or all carry the same, so they are no partition."
        )
    parts = {"training rows": inputs.split.train, "validation rows": inputs.split.validation}
    shares = {part: _shares(found, partitions, rows, inputs.recipe.seed) for part, rows in parts.items()}
    return Exhibit(
        "section4-variance",
        "Section 4: gradient variance within and across clusters",
        [_table(part, rows, shares[part]) for part, rows in parts.items()],
        {
            part: {kind: [vars(one) for one in each] for kind, each in by_kind.items()}
            for part, by_kind in shares.items()
        },
        [
            "within: the weighted mean of the parts' variances, in % of the whole's (Theorem 3's ratio); across: the "
            "rest, the spread of the parts' means. unit: rows at length one, as Stage II sees them; raw: as "
            "SGD sees them.",
            "above the whole: parts with Var(D_i) > Var(D), which equation 5 says can't be.",
            f"random: the gradient clusters' labels dealt out {_DEALS} times, mean; K parts of n rows get "
            "(K - 1) / (n - 1) across for nothing.",
        ],
        failures,
        _bars(shares),
        (inputs.recipe.seed,),
    )


def _shares(
    found: GradientCosines, partitions: dict[str, Labels], rows: Sequence[int], seed: int
) -> dict[str, list[Shares]]:
    at = np.ix_(list(rows), list(rows))
    own = {name: labels[list(rows)] for name, labels in partitions.items()}
    return {
        "unit": _of(found.cosines[at], own, seed),
        "raw": _of(found.products[at], own, seed),
    }


def _of(products: NDArray[np.float64], partitions: dict[str, Labels], seed: int) -> list[Shares]:
    each = [_one(name, products, labels) for name, labels in partitions.items()]
    shuffler = np.random.default_rng(seed)
    dealt = [
        _one("random", products, shuffler.permutation(partitions["gradient clusters"])) for _ in range(_DEALS)
    ]
    mean = float(np.mean([one.within for one in dealt]))
    above = round(float(np.mean([one.exceeding for one in dealt])))
    return [*each, Shares("random", dealt[0].k, mean, above)]


def _one(name: str, products: NDArray[np.float64], labels: Labels) -> Shares:
    found: dict[str, Any] = gradient_variance(products, labels, int(labels.max()) + 1)
    k = sum(value is not None for value in found["clusters"])
    return Shares(name, k, found["weighted"] / found["whole"], len(found["exceeding"]))


def _table(part: str, rows: Sequence[int], shares: dict[str, list[Shares]]) -> Table:
    return Table(
        f"{part} ({len(rows):,})",
        (
            "partition",
            "parts",
            "unit: within",
            "unit: above the whole",
            "raw: within",
            "raw: above the whole",
        ),
        [
            (
                unit.name,
                str(unit.k),
                f"{unit.within:.2%}",
                f"{unit.exceeding} of {unit.k}",
                f"{raw.within:.2%}",
                f"{raw.exceeding} of {raw.k}",
            )
            for unit, raw in zip(shares["unit"], shares["raw"], strict=True)
        ],
    )


def _bars(shares: dict[str, dict[str, list[Shares]]]) -> Figure:
    figure = canvas(7.2, 2.8, panels=2)
    for axes, (part, by_kind) in zip(figure.axes, shares.items(), strict=True):
        names = [one.name for one in by_kind["unit"]]
        for offset, kind, colour in ((-0.19, "unit", ACCENT), (0.19, "raw", MUTED)):
            across = [100 * (1 - one.within) for one in by_kind[kind]]
            axes.barh(np.arange(len(names)) + offset, across, height=0.36, color=colour, label=kind)
        axes.set_yticks(range(len(names)), names, color=INK)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.set_title(f"{part}: variance across, %", fontsize=10, loc="left")
    figure.axes[1].set_yticks([])
    figure.axes[0].legend(frameon=False, loc="lower right")
    return figure
