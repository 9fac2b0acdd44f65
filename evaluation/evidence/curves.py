"""Three curves behind the comparison: share, then split; rows per expert; the router's errors against the oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.evidence.exhibit import ACCENT, MUTED, SECOND, Exhibit, Table, canvas
from evaluation.evidence.misrouting import Misrouting, misrouting
from evaluation.evidence.rerun import Rerun
from evaluation.intervals import Difference, overall_difference, told
from evaluation.methods.gradientspace import GradientSpace, gradient_clusters
from evaluation.methods.one_lora import OneLora
from evaluation.methods.protocol import Method
from evaluation.methods.share_then_split import ShareThenSplit
from evaluation.seed.experts import train_adapter
from evaluation.seed.partition import ONLY, ORACLE, ROUTER, Fitted, alone, one_expert_each
from evaluation.seed.scoring import Scores, score
from training.errors import TrainingError
from training.rows.rendering import TokenRow
from training.run import Run
from training.stages.store import StageStore

_SHARES = (25, 50, 75)
_PARTS = (0.25, 0.5)  # and all rows, which is the first place of the other curve
_ROUTES = (ORACLE, ROUTER)


@dataclass(frozen=True)
class Place:
    """One place of a curve: experts against one LoRA of as many row visits on the same rows."""

    at: float
    one: float
    losses: dict[str, float]
    over_one: dict[str, Difference]


def curves(run: Run, store: StageStore, held_out: Sequence[TokenRow]) -> Exhibit:
    """Train and judge what the curves need, at the recipe's learning rate; a curve that fails is named.

    Raises:
        TrainingError: the run is not finished.

    """
    with Rerun(run, store, held_out) as again:
        bench = _Bench(again)
        failures: list[str] = []
        shared, parts = _whole(bench.shared, failures), _whole(bench.parts, failures)
        routed: Misrouting | None = None
        try:
            experts = GradientSpace().fit(again, bench.rate)
            routed = misrouting(again, experts, bench.one)
        except TrainingError as error:
            failures.append(f"router's errors: {error}")
        again.clear()
        return _exhibit(run, again, shared, parts, routed, failures)


def _whole(curve: Callable[[], list[Place]], failures: list[str]) -> list[Place]:
    try:
        return curve()
    except TrainingError as error:
        failures.append(f"{curve.__name__}: {error}")
        return []


class _Bench:
    """Trains and scores on one run's rows."""

    def __init__(self, again: Rerun) -> None:
        self.again = again
        self.rate = again.inputs.recipe.experts.learning_rate
        self.one = self._score(OneLora.name, OneLora().fit(again, self.rate))[ONLY]

    def shared(self) -> list[Place]:
        """Share, then split: 0 is GradientSpace, 100 one LoRA."""
        methods: list[tuple[int, Method]] = [(0, GradientSpace())]
        methods += [(percent, ShareThenSplit(percent)) for percent in _SHARES]
        return [
            self._place(float(percent), self._score(method.name, method.fit(self.again, self.rate)), self.one)
            for percent, method in methods
        ]

    def parts(self) -> list[Place]:
        """Rows per expert: the same clusters, experts and one LoRA on a part of their rows."""
        clusters, again = gradient_clusters(self.again), self.again
        draw = np.random.default_rng(again.seed).permutation(again.train)
        places = []
        for part in _PARTS:
            rows = np.sort(draw[: round(part * len(draw))])
            schedule = again.schedule(self.rate)
            name = f"part-{round(100 * part)}"
            one = alone(train_adapter(again, f"{name}-one", rows, schedule), len(again.rows))
            experts = tuple(
                train_adapter(again, f"{name}-{label}", clusters.members(rows, label), schedule)
                for label in range(clusters.k)
            )
            places.append(
                self._place(
                    len(rows) / clusters.k,
                    self._score(f"{name}-experts", one_expert_each(clusters, experts)),
                    self._score(f"{name}-one", one)[ONLY],
                )
            )
        whole = self._score(GradientSpace.name, GradientSpace().fit(again, self.rate))
        return [*places, self._place(len(draw) / clusters.k, whole, self.one)]

    def _score(self, name: str, fitted: Fitted) -> dict[str, Scores]:
        return score(self.again, name, fitted, self.again.judged)

    def _place(self, at: float, scores: dict[str, Scores], one: Scores) -> Place:
        return Place(
            at,
            _loss(one),
            {route: _loss(each) for route, each in scores.items()},
            {route: overall_difference(each.loss, one.loss, each.tokens) for route, each in scores.items()},
        )


def _loss(scores: Scores) -> float:
    return float(scores.loss.sum() / scores.tokens.sum())


def _exhibit(
    run: Run,
    again: Rerun,
    shared: Sequence[Place],
    parts: Sequence[Place],
    routed: Misrouting | None,
    failures: list[str],
) -> Exhibit:
    tables = [
        _table("Share, then split: row visits shared, in %", "shared", shared, "{:.0f} %"),
        _table("Rows per expert, mean", "rows", parts, "{:.0f}"),
    ]
    notes = [
        f"Loss per response token on {len(again.judged):,} unseen rows, K = {again.clusters.k}, one training seed, "
        "95 % intervals over rows in pairs. Every place: as many row visits for the experts together as for one LoRA.",
    ]
    figures: dict[str, Any] = {
        "shared": [_as_json(place) for place in shared],
        "parts": [_as_json(place) for place in parts],
        "judged_rows": len(again.judged),
    }
    if routed is not None:
        tables.append(routed.table())
        notes += routed.notes()
        figures["misrouting"] = vars(routed)
    return Exhibit(
        "curves",
        "Share then split, rows per expert, and the router's errors",
        tables,
        figures,
        notes,
        failures,
        _picture(shared, parts, routed),
        (again.seed,),
    )


def _table(title: str, head: str, places: Sequence[Place], form: str) -> Table:
    columns = (
        head,
        "one LoRA",
        *(part for route in _ROUTES for part in (f"{route}", "over one LoRA")),
    )
    rows = [
        (
            form.format(place.at),
            f"{place.one:.4f}",
            *(
                part
                for route in _ROUTES
                for part in (f"{place.losses[route]:.4f}", told(place.over_one[route]))
            ),
        )
        for place in places
    ]
    return Table(title, columns, rows)


def _as_json(place: Place) -> dict[str, Any]:
    return vars(place) | {"over_one": {route: vars(gap) for route, gap in place.over_one.items()}}


def _picture(shared: Sequence[Place], parts: Sequence[Place], routed: Misrouting | None) -> Figure:
    figure = canvas(9.6, 3.0, panels=3)
    left, middle, right = figure.axes
    _lines(left, shared, "share, then split", "row visits shared, %")
    _lines(middle, parts, "rows per expert", "rows")
    left.set_ylabel("loss over one LoRA")
    if routed is not None:
        routed.draw(right)
    return figure


def _lines(axes: Axes, places: Sequence[Place], title: str, what: str) -> None:
    at = [place.at for place in places]
    for route, colour in ((ORACLE, ACCENT), (ROUTER, SECOND)):
        gaps = [place.over_one[route] for place in places]
        axes.plot(at, [gap.mean for gap in gaps], color=colour, marker="o", ms=4, label=route)
        axes.fill_between(
            at, [gap.low for gap in gaps], [gap.high for gap in gaps], color=colour, alpha=0.15, lw=0
        )
    axes.axhline(0, color=MUTED, lw=0.8)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(what)
    axes.legend(frameon=False, fontsize=8)
