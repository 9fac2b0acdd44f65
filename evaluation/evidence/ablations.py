"""The ablations that decide whether the paper is right: one choice of Stage II or III changed at a time.

Every variant clusters the run's training rows anew and is compared with the default: do the labels agree, do clusters
hang together, and, after an expert per cluster, what is the loss on held-out rows. Equal partitions share experts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from evaluation.errors import EvidenceError
from evaluation.evidence.exhibit import ACCENT, INK, MUTED, SECOND, Exhibit, Table, canvas
from evaluation.evidence.gradient_cosines import GradientCosines, gradient_cosines
from evaluation.evidence.rerun import Rerun
from evaluation.evidence.stage_two_variant import Clustered, Span, Variant
from evaluation.intervals import Difference, overall_difference, told
from evaluation.seed.experts import train_partition
from evaluation.seed.partition import ORACLE, ROUTER, Model, Partition, one_expert_each
from evaluation.seed.projected_gradients import DIMENSIONS, projected_gradients
from evaluation.seed.scoring import Scores, score
from evaluation.seed.seed_run import SeedRun
from training.clusters.quality import cluster_quality
from training.errors import TrainingError
from training.models.finetune import new_adapter
from training.rows.rendering import TokenRow
from training.run import Run
from training.stages.store import Stage, StageStore

DEFAULT = "default: full dimension, unit rows, lifted start, exact cache, warm experts"
_BETAS = (0.0, 0.5, 0.99)
_RANDOM_STARTS = 3


@dataclass(frozen=True)
class Tried:
    """A variant's partition, and what came of it; losses are None where no experts were trained."""

    name: str
    k: int
    agreement: float  # adjusted Rand index with the default, over training rows
    inside: float  # mean cosine between two training rows of one cluster
    inside_unseen: float  # the same over judged rows
    losses: dict[str, float] | None  # by route, per response token
    over_default: dict[str, Difference] | None


def ablations(run: Run, store: StageStore, held_out: Sequence[TokenRow], train: bool) -> Exhibit:
    """All ablations of a finished run; `train`: experts too, which is what takes long.

    Each is beside the paper's Stage II, whatever the run's `clusters.readable` and `clusters.rule`.

    Raises:
        TrainingError: the run is not finished.

    """
    assigned, recipe = run.assigned.assignment, run.inputs.recipe
    if assigned.k < 2:
        raise EvidenceError(
            f"{run.folder}: it has one cluster, so there is nothing to compare. Train with K > 1."
        )
    with Rerun(run, store, held_out) as again:
        found = gradient_cosines(run.inputs, store, again.warmup, again.rows)
        projected = projected_gradients(again, "all", again.warmup, again.rows).astype(np.float64)
        shadow = projected @ projected.T  # [N + T, N + T]
        laboratory = _Laboratory(again, found, train)
        span = Span(found.cosines, found.norms, again.train.tolist(), run.inputs.split.probe)
        section, seed = recipe.clusters, recipe.seed
        default = span.partition(Variant(assigned.k), section, seed)
        laboratory.try_out(DEFAULT, default)
        laboratory.compare(
            "the run's own clusters", Clustered(_own(again, assigned.labels, default), assigned.k)
        )
        small = Span(shadow, found.norms, again.train.tolist(), run.inputs.split.probe)
        variants = {
            f"{DIMENSIONS:,}-dimensional random projection": small.partition(
                Variant(assigned.k), section, seed
            ),
            "raw rows": span.partition(Variant(assigned.k, unit=False), section, seed),
            "start: means of the SVD clusters' members": span.partition(
                Variant(assigned.k, start="means"), section, seed
            ),
            **{
                f"start: random rows, draw {draw}": span.partition(
                    Variant(assigned.k, start="random"), section, seed + draw
                )
                for draw in range(_RANDOM_STARTS)
            },
            "cache: ring": span.partition(Variant(assigned.k, cache="ring"), section, seed),
            "cache: none": span.partition(Variant(assigned.k, cache="none"), section, seed),
            **{
                f"beta {beta:g} instead of {section.beta:g}": span.partition(
                    Variant(assigned.k, beta=beta), section, seed
                )
                for beta in _BETAS
            },
        }
        for name, clustered in variants.items():
            laboratory.try_out(name, clustered)
        if train:
            laboratory.fresh("experts from a fresh adapter", default)
        errors = np.abs(shadow - found.cosines)[np.triu_indices(len(shadow), 1)]
        return _exhibit(run, laboratory, errors)


def _own(again: Rerun, labels: NDArray[np.int64], default: Clustered) -> NDArray[np.int64]:
    """The run's labels [N], followed, for held-out rows, by the default's: only training rows are compared."""
    whole = default.labels.copy()
    whole[: len(labels)] = labels
    return whole


class _Laboratory:
    """Tries partitions out against the first one, the default."""

    def __init__(self, again: Rerun, found: GradientCosines, train: bool) -> None:
        self.again, self.found, self.train = again, found, train
        self.tried: list[Tried] = []
        self.failures: list[str] = []
        self._default: Clustered | None = None
        self._scores: dict[str, Scores] = {}

    def try_out(self, name: str, clustered: Clustered) -> None:
        """Compare a partition with the default, and train its experts."""
        self._default = self._default or clustered
        if not self.train:
            self.compare(name, clustered)
            return
        partition = self._partition(clustered)
        try:
            experts = train_partition(self.again, partition, self._schedule())
            scores = score(self.again, partition.name, one_expert_each(partition, experts), self.again.judged)
        except TrainingError as error:
            self.failures.append(f"{name}: {error}")
            self.compare(name, clustered)
            return
        self.compare(name, clustered, scores)

    def fresh(self, name: str, clustered: Clustered) -> None:
        """The default's clusters, their experts from B = 0 instead of the warm-up adapter."""
        partition = self._partition(clustered)
        partition = Partition(f"fresh-{partition.name}", partition.labels, partition.routes, partition.k)
        try:
            experts = train_partition(
                self.again, partition, self._schedule(), start=fresh_adapter(self.again)
            )
            scores = score(self.again, partition.name, one_expert_each(partition, experts), self.again.judged)
        except TrainingError as error:
            self.failures.append(f"{name}: {error}")
            return
        self.compare(name, clustered, scores)

    def compare(self, name: str, clustered: Clustered, scores: dict[str, Scores] | None = None) -> None:
        """Note how far the labels agree with the default's, how the clusters hang together, and the losses."""
        assert self._default is not None
        train = self.again.train
        self._scores = self._scores or (scores or {})
        self.tried.append(
            Tried(
                name,
                clustered.k,
                float(adjusted_rand_score(self._default.labels[train], clustered.labels[train])),
                self._inside(clustered, train),
                self._inside(clustered, self.again.judged),
                None if scores is None else {route: _loss(each) for route, each in scores.items()},
                None
                if scores is None
                else {
                    route: overall_difference(each.loss, self._scores[route].loss, each.tokens)
                    for route, each in scores.items()
                },
            )
        )

    def _partition(self, clustered: Clustered) -> Partition:
        digest = hashlib.sha256(clustered.labels.tobytes()).hexdigest()[:10]
        return self.again.routed(f"clusters-{digest}", clustered.labels, clustered.k)

    def _schedule(self) -> Any:
        return self.again.schedule(self.again.inputs.recipe.experts.learning_rate)

    def _inside(self, clustered: Clustered, rows: NDArray[np.int64]) -> float:
        cosines = self.found.cosines[np.ix_(rows, rows)]
        quality = cluster_quality(cosines, self.found.norms[rows], clustered.labels[rows], clustered.k)
        return float(quality["mean_inside"])


def _loss(scores: Scores) -> float:
    return float(scores.loss.sum() / scores.tokens.sum())


def _exhibit(run: Run, laboratory: _Laboratory, errors: NDArray[np.float64]) -> Exhibit:
    tried, again = laboratory.tried, laboratory.again
    columns = ["variant", "K", "label agreement", "cosine inside", "on unseen rows"]
    if laboratory.train:
        columns += ["loss, oracle", "over default", "loss, router", "over default"]
    rows = [
        [one.name, str(one.k), f"{one.agreement:.3f}", f"{one.inside:.4f}", f"{one.inside_unseen:.4f}"]
        for one in tried
    ]
    for cells, one in zip(rows, tried, strict=True):
        for route in (ORACLE, ROUTER) if laboratory.train else ():
            if one.losses is None or one.over_default is None:
                cells += ["", ""]
            else:
                cells += [f"{one.losses[route]:.4f}", told(one.over_default[route])]
    quantiles = np.quantile(errors, [0.5, 0.95, 1.0])
    judged = "held-out" if len(again.test) else "validation"
    notes = [
        "label agreement: adjusted Rand index with the default, over training rows. cosine inside: mean over pairs of "
        "rows of one cluster, in full dimension whatever the variant.",
        f"Random projection to {DIMENSIONS:,}: error of a cosine, median {quantiles[0]:.4f}, 95 % below "
        f"{quantiles[1]:.4f}, largest {quantiles[2]:.4f}; d = "
        f"{laboratory.found.dimension:,}, the median cosine is "
        f"{np.median(laboratory.found.cosines):.4f}.",
        "Variants run in the coordinates of the gradients' own span; the run's own clusters, made in R^d, show what "
        "that changes.",
    ]
    if laboratory.train:
        notes.append(
            f"Losses: per response token on {len(again.judged):,} {judged} rows, experts at the recipe's learning "
            "rate; over default: paired 95 % interval over rows, one training seed. oracle: the cluster of the row's "
            "own gradient, response seen."
        )
    figures = {
        "variants": [_as_json(one) for one in tried],
        "projection_error": dict(zip(("median", "p95", "largest"), quantiles.tolist(), strict=True)),
        "judged_rows": len(again.judged),
    }
    return Exhibit(
        "ablations",
        "Ablations of Stages II and III",
        [Table(f"{run.inputs.base.record.name}, {len(again.train):,} training rows", columns, rows)],
        figures,
        notes,
        laboratory.failures,
        _picture(tried),
        (again.seed,),
    )


def _as_json(one: Tried) -> dict[str, Any]:
    over = one.over_default
    return vars(one) | {
        "over_default": None if over is None else {route: vars(each) for route, each in over.items()}
    }


def _picture(tried: Sequence[Tried]) -> Figure:
    judged = any(one.over_default is not None for one in tried)
    figure = canvas(8.6 if judged else 6.0, 1.0 + 0.27 * len(tried), panels=1 + judged)
    left = figure.axes[0]
    names = [one.name.partition(":")[0] if one.name == DEFAULT else one.name for one in tried]
    left.barh(range(len(tried)), [one.agreement for one in tried], color=ACCENT, height=0.6)
    left.set_yticks(range(len(tried)), names, color=INK, fontsize=8.5)
    left.set_xlim(0, 1.02)
    left.set_title("label agreement with the default", fontsize=9, loc="left")
    if judged:
        _losses_over_default(figure.axes[1], tried)
    for axes in figure.axes:
        axes.set_ylim(len(tried) - 0.5, -0.5)
        axes.grid(visible=False)
    return figure


def _losses_over_default(axes: Axes, tried: Sequence[Tried]) -> None:
    for place, one in enumerate(tried):
        for offset, route, colour in ((-0.15, ORACLE, ACCENT), (0.15, ROUTER, SECOND)):
            if one.over_default is None:
                continue
            gap = one.over_default[route]
            axes.plot([gap.low, gap.high], [place + offset] * 2, color=colour, lw=1.6)
            axes.plot([gap.mean], [place + offset], color=colour, marker="o", ms=4)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_yticks([])
    axes.set_title("loss over default: oracle blue, router red", fontsize=9, loc="left")


def fresh_adapter(run: SeedRun) -> Model:
    """A new adapter (B = 0) of the recipe's shape; its warm-up's row visits are not made up for."""
    recipe = run.inputs.recipe

    def work(folder: Path) -> dict[str, Any]:
        model = new_adapter(run.inputs.base, recipe.lora, run.seed)
        config: Any = model.peft_config[model.active_adapters[0]]
        config.target_modules = sorted(config.target_modules)
        model.save_pretrained(str(folder), save_embedding_layers=False)
        return {}

    depends_on = {
        "base": run.inputs.base.record.model_dump(),
        "lora": recipe.lora.model_dump(),
        "seed": run.seed,
    }
    done = run.store.run(Stage("fresh-adapter", "An adapter that was not warmed up", depends_on), work)
    return Model("fresh", "adapter", done.folder, done.digest)
