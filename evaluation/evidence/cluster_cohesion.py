"""Cohesion and quality over the number of clusters (section 6.6, Figure 6)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import silhouette_score

from evaluation.errors import EvidenceError
from evaluation.evidence.exhibit import ACCENT, MUTED, SECOND, Exhibit, Table, canvas
from evaluation.evidence.gradient_cosines import GradientCosines, gradient_cosines
from evaluation.evidence.rerun import Rerun
from evaluation.evidence.stage_two_variant import Clustered, Span, Variant
from evaluation.intervals import Difference, overall_difference, told
from evaluation.methods.one_lora import OneLora
from evaluation.seed.experts import train_partition
from evaluation.seed.partition import ONLY, ORACLE, ROUTER, one_expert_each
from evaluation.seed.scoring import Scores, score
from training.clusters.quality import cluster_quality
from training.errors import TrainingError
from training.rows.rendering import TokenRow
from training.run import Run
from training.stages.store import StageStore

_ROUTES = (ORACLE, ROUTER)


@dataclass(frozen=True)
class OfK:
    """What K clusters are like; the losses are None where no experts were trained.

    inside and between: mean cosine of two training rows in one cluster and in two. silhouette on the exact cosine
    distance, over training rows. over_one: loss per token less that of one LoRA.
    """

    k: int
    left: int
    inside: float
    between: float
    silhouette: float
    router_agrees: float
    losses: dict[str, float] | None
    over_one: dict[str, Difference] | None


def cluster_cohesion(
    run: Run, store: StageStore, ks: Sequence[int], held_out: Sequence[TokenRow], train: bool
) -> Exhibit:
    """Stage II with each K on a finished run's rows, and, with `train`, an expert per cluster judged on unseen rows.

    Raises:
        TrainingError: the run is not finished, or has too few rows for a K.

    """
    if not ks or min(ks) < 2 or max(ks) >= len(run.inputs.split.probe):
        raise EvidenceError(
            f"--ks must hold numbers from 2 to below the probe's {len(run.inputs.split.probe)} rows."
        )
    failures: list[str] = []
    with Rerun(run, store, held_out) as again:
        found = gradient_cosines(run.inputs, store, again.warmup, again.rows)
        span = Span(found.cosines, found.norms, again.train.tolist(), run.inputs.split.probe)
        one: Scores | None = None
        rate = run.inputs.recipe.experts.learning_rate
        if train:
            one = score(again, OneLora.name, OneLora().fit(again, rate), again.judged)[ONLY]
        measured = []
        for k in ks:
            clustered = span.partition(Variant(k), run.inputs.recipe.clusters, again.seed)
            try:
                scores = None if one is None else _scores(again, clustered, rate)
            except TrainingError as error:
                failures.append(f"K = {k}: {error}")
                scores = None
            measured.append(_of_k(again, found, k, clustered, scores, one))
        return _exhibit(run, again, measured, one, failures)


def _scores(again: Rerun, clustered: Clustered, rate: float) -> dict[str, Scores]:
    digest = hashlib.sha256(clustered.labels.tobytes()).hexdigest()[:10]
    partition = again.routed(f"clusters-{digest}", clustered.labels, clustered.k)
    experts = train_partition(again, partition, again.schedule(rate))
    return score(again, partition.name, one_expert_each(partition, experts), again.judged)


def _of_k(
    again: Rerun,
    found: GradientCosines,
    k: int,
    clustered: Clustered,
    scores: dict[str, Scores] | None,
    one: Scores | None,
) -> OfK:
    train = again.train
    labels, cosines = clustered.labels[train], found.cosines[np.ix_(train, train)]
    quality = cluster_quality(cosines, found.norms[train], labels, clustered.k)
    distance = (1 - cosines).clip(0)
    np.fill_diagonal(distance, 0)
    routes = again.routed("routes", clustered.labels, clustered.k).routes[again.judged]
    return OfK(
        k=k,
        left=clustered.k,
        inside=float(quality["mean_inside"]),
        between=float(quality["mean_between"] or 0.0),
        silhouette=float(silhouette_score(distance, labels, metric="precomputed"))
        if clustered.k > 1
        else 0.0,
        router_agrees=float((routes == clustered.labels[again.judged]).mean()),
        losses=None
        if scores is None
        else {route: float(each.loss.sum() / each.tokens.sum()) for route, each in scores.items()},
        over_one=None
        if scores is None or one is None
        else {route: overall_difference(each.loss, one.loss, each.tokens) for route, each in scores.items()},
    )


def _exhibit(
    run: Run, again: Rerun, measured: Sequence[OfK], one: Scores | None, failures: list[str]
) -> Exhibit:
    columns = ["K", "clusters left", "cosine inside", "cosine between", "silhouette", "router agrees"]
    if one is not None:
        columns += [part for route in _ROUTES for part in (f"loss, {route}", "over one LoRA")]
    rows = []
    for each in measured:
        cells = [
            str(each.k),
            str(each.left),
            f"{each.inside:.4f}",
            f"{each.between:.4f}",
            f"{each.silhouette:.4f}",
            f"{each.router_agrees:.0%}",
        ]
        for route in _ROUTES if one is not None else ():
            if each.losses is None or each.over_one is None:
                cells += ["", ""]
            else:
                cells += [f"{each.losses[route]:.4f}", told(each.over_one[route])]
        rows.append(cells)
    notes = [
        "Stage II with K fixed, from the paper's start; cosines and silhouette (on the exact cosine distance) over "
        f"{len(again.train):,} training rows.",
    ]
    figures: dict[str, Any] = {"by_k": [_as_json(each) for each in measured]}
    if one is not None:
        loss = float(one.loss.sum() / one.tokens.sum())
        notes.append(
            f"Losses per response token on {len(again.judged):,} unseen rows; one LoRA on everything: {loss:.4f}. 95 % "
            "intervals over rows in pairs, one training seed. oracle: the cluster of the row's own gradient, response "
            "seen; router: from the prompt."
        )
        figures |= {"one_lora": loss, "judged_rows": len(again.judged)}
    return Exhibit(
        "figure6",
        "Figure 6: cohesion and quality over K",
        [Table(run.inputs.base.record.name, columns, rows)],
        figures,
        notes,
        failures,
        _picture(measured),
        (again.seed,),
    )


def _as_json(each: OfK) -> dict[str, Any]:
    over = each.over_one
    return vars(each) | {
        "over_one": None if over is None else {route: vars(gap) for route, gap in over.items()}
    }


def _picture(measured: Sequence[OfK]) -> Figure:
    judged = [each for each in measured if each.over_one is not None]
    figure = canvas(8.0 if judged else 5.0, 3.0, panels=2 if judged else 1)
    left = figure.axes[0]
    ks = [each.k for each in measured]
    left.plot(ks, [each.inside for each in measured], color=ACCENT, marker="o", ms=4, label="cosine inside")
    left.plot(ks, [each.between for each in measured], color=MUTED, marker="o", ms=4, label="between")
    left.plot(ks, [each.silhouette for each in measured], color=SECOND, marker="o", ms=4, label="silhouette")
    left.set_title("cohesion", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=8)
    left.set_xlabel("K")
    if judged:
        right = figure.axes[1]
        for route, colour in ((ORACLE, ACCENT), (ROUTER, SECOND)):
            _line(right, judged, route, colour)
        right.axhline(0, color=MUTED, lw=0.8)
        right.set_title("held-out loss over one LoRA", fontsize=10, loc="left")
        right.legend(frameon=False, fontsize=8)
        right.set_xlabel("K")
    return figure


def _line(axes: Axes, judged: Sequence[OfK], route: str, colour: str) -> None:
    ks = [each.k for each in judged]
    gaps = [each.over_one[route] for each in judged if each.over_one is not None]
    axes.plot(ks, [gap.mean for gap in gaps], color=colour, marker="o", ms=4, label=route)
    axes.fill_between(
        ks, [gap.low for gap in gaps], [gap.high for gap in gaps], color=colour, alpha=0.15, lw=0
    )
