"""Does the routed cosine of a partition say what its experts gain? Many partitions of a run's rows, trained (ours)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import BootstrapMethod, pearsonr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from evaluation.errors import EvidenceError
from evaluation.evidence.exhibit import ACCENT, MUTED, SECOND, Exhibit, Table, canvas
from evaluation.evidence.gradient_cosines import gradient_cosines
from evaluation.evidence.rerun import Rerun
from evaluation.intervals import Difference, overall_difference, told
from evaluation.methods.one_lora import OneLora
from evaluation.seed.experts import train_adapter, train_partition
from evaluation.seed.partition import ONLY, ORACLE, ROUTER, Model, Partition, one_expert_each
from evaluation.seed.scoring import Scores, score
from training.clusters.readable import in_folds
from training.clusters.readable_start import readable_clusters
from training.clusters.spherical_kmeans import centroid_cosines, spectrum_of, spherical_kmeans
from training.errors import TrainingError
from training.rows.rendering import TokenRow
from training.run import Run
from training.stages.store import StageStore

Labels = NDArray[np.int64]

_WEIGHTS = (0.05, 0.1, 0.2)
_SHARED = 0.75  # of every row's visits, in one adapter that all experts start from
_ROUTES = (ROUTER, ORACLE)
_FEWEST = 4  # partitions, below which a correlation is not given


@dataclass(frozen=True)
class OfPartition:
    """One partition: its routed cosine on unseen rows, and its experts' loss less one LoRA's by way of choosing.

    sources: adjusted Rand index of its training rows with their sources; None where rows name none.
    """

    made_by: str
    k: int
    smallest: int
    routed_cosine: float
    sources: float | None
    over_one: dict[str, Difference]


def routed_cosine(run: Run, store: StageStore, ks: Sequence[int], held_out: Sequence[TokenRow]) -> Exhibit:
    """Partition a finished run's training rows in many ways, train each one's experts, and judge both on unseen rows.

    Raises:
        TrainingError: the run has no warm-up adapter, or too few rows for a K.

    """
    rows = len(run.inputs.split.train)
    if not ks or min(ks) < 2 or max(ks) * 4 > rows:
        raise EvidenceError(f"--ks must hold numbers from 2 to a quarter of the {rows} training rows.")
    failures: list[str] = []
    with Rerun(run, store, held_out) as again:
        bench = _Bench(again, store)
        measured = []
        for made_by, labels in bench.partitions(ks):
            try:
                measured.append(bench.judged(made_by, labels))
            except TrainingError as error:
                failures.append(f"{made_by}, K = {int(labels.max()) + 1}: {error}")
        return _exhibit(run, again, bench, measured, failures)


class _Bench:
    """Makes partitions of the training rows, trains on them and judges them."""

    def __init__(self, again: Rerun, store: StageStore) -> None:
        self.again = again
        self.rate = again.inputs.recipe.experts.learning_rate
        self.cosines = gradient_cosines(again.inputs, store, again.warmup, again.rows).cosines  # [M, M]
        self.gram = np.ascontiguousarray(self.cosines[np.ix_(again.train, again.train)])  # [n, n]
        self.sources = [row.source for row in again.pick(again.train)]
        self.one = score(again, OneLora.name, OneLora().fit(again, self.rate), again.judged)[ONLY]
        alone = centroid_cosines(self._to_train(again.judged), self.gram, np.zeros_like(again.train), 1)
        self.one_cluster = float(alone.mean())
        self._seen: dict[bytes, str] = {}

    def partitions(self, ks: Sequence[int]) -> Iterator[tuple[str, Labels]]:
        """What made each partition, and its labels [n]; one that was made before in another way is passed over."""
        for made_by, labels in self._all(ks):
            if self._seen.setdefault(labels.tobytes(), made_by) == made_by:
                yield made_by, labels

    def _all(self, ks: Sequence[int]) -> Iterator[tuple[str, Labels]]:
        again = self.again
        names = sorted({source for source in self.sources if source is not None})
        if len(names) > 1 and None not in self.sources:
            yield "sources", np.array([names.index(str(source)) for source in self.sources])
        embeddings = again.embeddings[again.train]
        texts = [row.routed_text for row in again.pick(again.train)]
        prompts = in_folds(embeddings, range(len(texts)), texts, again.seed)
        spectrum, starts = spectrum_of(self.gram), again.inputs.recipe.clusters.n_init
        for k in ks:
            yield "random", np.random.default_rng(again.seed).permutation(len(texts)).astype(np.int64) % k
            found = KMeans(k, n_init=starts, random_state=again.seed).fit(embeddings)
            text = found.labels_.astype(np.int64)
            gradients = spherical_kmeans(self.gram, spectrum, k, starts, again.seed)
            yield "prompts", text
            yield "gradients", gradients
            for weight in _WEIGHTS:
                for name, start in (("gradients", gradients), ("prompts", text)):
                    labels = readable_clusters(self.gram, start, k, partial(prompts.log_chances, k=k), weight)
                    yield f"readable {weight} from {name}", labels

    def judged(self, made_by: str, labels: Labels) -> OfPartition:
        """Train the experts of training labels [n], and judge them and their routed cosine."""
        again, k = self.again, int(labels.max()) + 1
        cosines = centroid_cosines(self._to_train(np.arange(len(again.rows))), self.gram, labels, k)  # [M, k]
        everywhere = cosines.argmax(1).astype(np.int64)  # [M]
        everywhere[again.train] = labels
        partition = again.routed(_name(labels), everywhere, k)
        shared = train_adapter(again, "shared", again.train, again.schedule(self.rate, _SHARED))
        scores = self._scores(partition, shared)
        return OfPartition(
            made_by,
            k,
            int(np.bincount(labels).min()),
            float(cosines[again.judged, partition.routes[again.judged]].mean()),
            None
            if None in self.sources
            else float(adjusted_rand_score([str(name) for name in self.sources], labels)),
            {
                route: overall_difference(scores[route].loss, self.one.loss, self.one.tokens)
                for route in _ROUTES
            },
        )

    def _scores(self, partition: Partition, shared: Model) -> dict[str, Scores]:
        split = self.again.schedule(self.rate, 1 - _SHARED)
        experts = train_partition(self.again, partition, split, start=shared)
        return score(self.again, partition.name, one_expert_each(partition, experts), self.again.judged)

    def _to_train(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ascontiguousarray(self.cosines[np.ix_(rows, self.again.train)])


def _name(labels: Labels) -> str:
    return f"partition-{hashlib.sha256(labels.tobytes()).hexdigest()[:10]}"


def _exhibit(
    run: Run, again: Rerun, bench: _Bench, measured: Sequence[OfPartition], failures: list[str]
) -> Exhibit:
    ranked = sorted(measured, key=lambda each: -each.routed_cosine)
    rows = [
        [
            each.made_by,
            str(each.k),
            str(each.smallest),
            f"{each.routed_cosine:.4f}",
            "" if each.sources is None else f"{each.sources:.2f}",
            *(told(each.over_one[route]) for route in _ROUTES),
        ]
        for each in ranked
    ]
    correlations = {route: found for route in _ROUTES if (found := _correlation(measured, route))}
    loss = float(bench.one.loss.sum() / bench.one.tokens.sum())
    notes = [
        f"{len(again.train):,} training rows, {len(again.judged):,} unseen ones; one cluster has a routed cosine of "
        f"{bench.one_cluster:.4f}. {_SHARED:.0%} of every row's visits in one shared adapter, the rest in its "
        f"cluster's expert; one LoRA of as many visits: {loss:.4f} nats per response token.",
        "Losses less one LoRA's, below 0 is a gain, with 95 % intervals over rows in pairs, one training seed. router: "
        "where the prompt is sent; oracle: the nearest centroid, response seen.",
        *(
            f"Pearson correlation of the routed cosine with the loss, {route}: {told(found)} (partitions resampled; "
            "they share rows and a start, so it is no interval for other data)."
            for route, found in correlations.items()
        ),
    ]
    figures: dict[str, Any] = {
        "partitions": [_as_json(each) for each in ranked],
        "one_cluster": bench.one_cluster,
        "one_lora": loss,
        "correlation": {route: vars(found) for route, found in correlations.items()},
        "judged_rows": len(again.judged),
    }
    return Exhibit(
        "routed-cosine",
        "Does the routed cosine say what experts gain?",
        [
            Table(
                run.inputs.base.record.name,
                ("made by", "K", "fewest rows", "routed cosine", "index with sources", *_ROUTES),
                rows,
            )
        ],
        figures,
        notes,
        failures,
        _picture(measured),
        (again.seed,),
    )


def _correlation(measured: Sequence[OfPartition], route: str) -> Difference | None:
    if len(measured) < _FEWEST:
        return None
    found = pearsonr(*_points(measured, route))
    low, high = found.confidence_interval(method=BootstrapMethod(rng=np.random.default_rng(0)))
    return Difference(float(found.statistic), float(low), float(high))


def _points(measured: Sequence[OfPartition], route: str) -> tuple[list[float], list[float]]:
    return [each.routed_cosine for each in measured], [each.over_one[route].mean for each in measured]


def _as_json(each: OfPartition) -> dict[str, Any]:
    return vars(each) | {"over_one": {route: vars(gap) for route, gap in each.over_one.items()}}


def _picture(measured: Sequence[OfPartition]) -> Figure:
    figure = canvas(5.2, 3.4)
    axes = figure.axes[0]
    for route, colour in zip(_ROUTES, (ACCENT, SECOND), strict=True):
        axes.scatter(*_points(measured, route), color=colour, s=16, label=route)
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_xlabel("routed cosine of unseen rows")
    axes.set_title("loss less one LoRA's", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8)
    return figure
