"""Where does it win, and why? The controlled suite over its dials: conflict, rows per skill, adapter rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.evidence.conflict_point import ConflictPoint, Outcome, RowMaker, measure_conflict_point
from evaluation.evidence.exhibit import MUTED, SERIES, Exhibit, Table, canvas
from evaluation.intervals import Difference, overall_difference, side, told
from training.errors import TrainingError
from training.progress import Narrator

OURS = ("gradientspace/oracle", "gradientspace/router")
RIVALS = {
    "one LoRA": {"oracle": "one-lora/all", "router": "one-lora/all"},
    "K-means on text": {"oracle": "kmeans/router", "router": "kmeans/router"},
    "true skill": {"oracle": "true-skill/oracle", "router": "true-skill/router"},
}
_ROUTES = ("oracle", "router")


@dataclass(frozen=True)
class Dials:
    """What the dials are turned to: every conflict with every number of rows at the first rank, then the other ranks.

    The other ranks stand at the largest conflict and the largest number of rows.
    """

    conflicts: Sequence[float]
    rows: Sequence[int]
    ranks: Sequence[int]

    @property
    def regimes(self) -> list[ConflictPoint]:
        """All points, in the order they are measured: of the conflicts the ends first, the greater before."""
        middle = (min(self.conflicts) + max(self.conflicts)) / 2
        conflicts = sorted(self.conflicts, key=lambda at: (-abs(at - middle), -at))
        grid = [ConflictPoint(conflict, rows, self.ranks[0]) for rows in self.rows for conflict in conflicts]
        return grid + [ConflictPoint(max(self.conflicts), max(self.rows), rank) for rank in self.ranks[1:]]


@dataclass(frozen=True)
class Point:
    """A point over all its seeds."""

    conflict_point: ConflictPoint
    outcomes: Sequence[Outcome]

    def loss(self, key: str) -> float:
        """Loss per response token of one `method/route`."""
        scores = [outcome.scores[key] for outcome in self.outcomes]
        return float(sum(one.loss.sum() for one in scores) / sum(one.tokens.sum() for one in scores))

    def gain(self, ours: str, theirs: str) -> Difference:
        """How much lower the loss of the first is than that of the second; above zero the first wins."""
        one, other = (
            np.stack([outcome.scores[key].loss for outcome in self.outcomes]) for key in (theirs, ours)
        )
        return overall_difference(one, other, self.outcomes[0].scores[ours].tokens)


def regimes(
    dials: Dials,
    seeds: Sequence[int],
    make_rows: RowMaker,
    held_out: int,
    base: Path,
    folder: Path,
    narrator: Narrator,
) -> Iterator[Exhibit]:
    """Measure every point with every seed, keep what was trained, and give the gains so far after each point.

    A point that fails is named in the exhibit's failures, and the others go on.
    """
    points: list[Point] = []
    failures: list[str] = []
    for number, conflict_point in enumerate(dials.regimes):
        outcomes = []
        for seed in seeds:
            narrator.title(
                f"Conflict point {number + 1} of {len(dials.regimes)}: {conflict_point.name}, seed {seed}"
            )
            place = folder / "regimes" / conflict_point.name / f"seed-{seed}"
            try:
                outcomes.append(
                    measure_conflict_point(conflict_point, seed, make_rows, held_out, base, place, narrator)
                )
            except TrainingError as error:
                failures.append(f"{conflict_point.name}, seed {seed}: {error}")
        if outcomes:
            points.append(Point(conflict_point, outcomes))
        if points:
            yield _exhibit(points, dials, seeds, held_out, failures)
    if not points:
        raise TrainingError(f"Not one conflict point could be measured. {failures[0]}")


def _exhibit(
    points: Sequence[Point], dials: Dials, seeds: Sequence[int], held_out: int, failures: Sequence[str]
) -> Exhibit:
    first = dials.ranks[0]
    points = sorted(
        points,
        key=lambda at: (at.conflict_point.rank != first, at.conflict_point.rows, at.conflict_point.conflict),
    )
    tables = [_losses(points), _gains(points)]
    notes = [
        "Losses: per response token, on held-out rows of unseen facts, the same for every seed. Every method: K = 2, "
        "the same warm-up adapter, learning rate and row visits. true skill: what must be done, which the conflict is "
        "about; the surface (tale or account) is what texts show.",
        "oracle: true skill by the row's own source; gradient clusters by the row's own gradient, response seen, which "
        "nobody who asks a question has. router: from the prompt.",
        "Gain: the rival's loss minus ours; above zero GradientSpace wins. 95 % interval over seeds and held-out rows "
        "in pairs.",
        "cosine of skills: between the mean unit gradients of the two skills' training rows, at the warm-up adapter; "
        "the dial is to turn it down. ARI: of the clusters with the true skills, on held-out rows (1: found; 0: by "
        "chance); with the answer's sign: of the gradient clusters with whether the answer adds or subtracts.",
        f"{len(points)} of {len(dials.regimes)} regimes measured.",
        *_verdict(points),
    ]
    figures = {"held_out_rows": 4 * held_out, "points": [_as_json(point) for point in points]}
    return Exhibit(
        "regimes",
        "Where GradientSpace wins, on rows of a known conflict",
        tables,
        figures,
        notes,
        list(failures),
        _picture(points, dials),
        seeds,
    )


def _losses(points: Sequence[Point]) -> Table:
    keys = [
        ("one LoRA", "one-lora/all"),
        ("K-means on text", "kmeans/router"),
        ("true skill, oracle", "true-skill/oracle"),
        ("true skill, router", "true-skill/router"),
        ("GradientSpace, oracle", OURS[0]),
        ("GradientSpace, router", OURS[1]),
    ]
    rows = []
    for point in points:
        outcomes = point.outcomes
        rows.append(
            [
                *_dials(point.conflict_point),
                *(f"{point.loss(key):.4f}" for _, key in keys),
                f"{np.mean([one.skill_cosine for one in outcomes]):+.3f}",
                f"{np.mean([one.found for one in outcomes]):.2f}",
                f"{np.mean([one.by_answer for one in outcomes]):.2f}",
                f"{np.mean([one.text for one in outcomes]):.2f}",
                f"{np.mean([one.routed['gradientspace'] for one in outcomes]):.0%}",
                f"{np.mean([one.routed['true-skill'] for one in outcomes]):.0%}",
            ]
        )
    heads = (
        *("conflict", "rows", "rank", *(title for title, _ in keys)),
        *(
            "cosine of skills",
            "ARI, gradients",
            "with the answer's sign",
            "ARI, text",
            "router agrees, GradientSpace",
            "true skill",
        ),
    )
    return Table("Held-out loss", heads, rows)


def _gains(points: Sequence[Point]) -> Table:
    rows = [
        [
            *_dials(point.conflict_point),
            *(
                told(point.gain(f"gradientspace/{route}", keys[route]))
                for route in _ROUTES
                for keys in RIVALS.values()
            ),
            told(point.gain("true-skill/router", "one-lora/all")),
        ]
        for point in points
    ]
    heads = [f"{route}: over {rival}" for route in _ROUTES for rival in RIVALS]
    return Table(
        "Gain of GradientSpace",
        ("conflict", "rows", "rank", *heads, "true skill, router, over one LoRA"),
        rows,
    )


def _dials(conflict_point: ConflictPoint) -> tuple[str, str, str]:
    return f"{conflict_point.conflict:g}", str(conflict_point.rows), str(conflict_point.rank)


def _verdict(points: Sequence[Point]) -> list[str]:
    """Where GradientSpace, routed, beats each rival, and where no split beats one LoRA."""
    lines = []
    for rival, keys in RIVALS.items():
        signs = [side(point.gain(OURS[1], keys["router"])) for point in points]
        lines.append(
            f"Routed GradientSpace against {rival}: ahead in {signs.count(1)} of {len(points)} regimes, behind in "
            f"{signs.count(-1)}, not told apart in {signs.count(0)}."
        )
    splits = ("kmeans/router", "true-skill/router", OURS[1])
    nothing = [
        point.conflict_point.name
        for point in points
        if all(side(point.gain(split, "one-lora/all")) < 1 for split in splits)
    ]
    lines.append(
        f"No routed split beats one LoRA in {len(nothing)} of {len(points)}: {', '.join(nothing) or 'none'}."
    )
    return lines


def _as_json(point: Point) -> dict[str, Any]:
    outcomes = point.outcomes
    return {
        **vars(point.conflict_point),
        "losses": {key: point.loss(key) for key in outcomes[0].scores},
        "gains": {
            route: {
                rival: vars(point.gain(f"gradientspace/{route}", keys[route]))
                for rival, keys in RIVALS.items()
            }
            for route in _ROUTES
        },
        "true_skill_over_one_lora": {
            route: vars(point.gain(f"true-skill/{route}", "one-lora/all")) for route in _ROUTES
        },
        "found": [one.found for one in outcomes],
        "by_answer": [one.by_answer for one in outcomes],
        "text": [one.text for one in outcomes],
        "skill_cosine": [one.skill_cosine for one in outcomes],
        "router_agrees": [one.routed for one in outcomes],
        "row_visits": [one.visits for one in outcomes],
    }


def _picture(points: Sequence[Point], dials: Dials) -> Figure:
    """A row of panels, one per rival: gain against conflict, a line per number of rows; ranks in the last."""
    ranked = any(point.conflict_point.rank != dials.ranks[0] for point in points)
    figure = canvas(3.1 * (len(RIVALS) + ranked), 3.2, panels=len(RIVALS) + ranked)
    for axes, (rival, keys) in zip(figure.axes, RIVALS.items(), strict=False):
        for number, rows in enumerate(dials.rows):
            line = [
                point
                for point in points
                if point.conflict_point.rows == rows and point.conflict_point.rank == dials.ranks[0]
            ]
            at = [point.conflict_point.conflict for point in line]
            if line:
                _lines(axes, at, line, keys, SERIES[number % len(SERIES)], f"{rows} rows")
        axes.set_title(f"over {rival}", fontsize=10, loc="left")
        axes.set_xlabel("conflict")
    if ranked:
        axes = figure.axes[-1]
        corner = [
            point
            for point in points
            if point.conflict_point.conflict == max(dials.conflicts)
            and point.conflict_point.rows == max(dials.rows)
        ]
        corner.sort(key=lambda point: point.conflict_point.rank)
        _lines(
            axes,
            [point.conflict_point.rank for point in corner],
            corner,
            RIVALS["one LoRA"],
            SERIES[2],
            "largest",
        )
        axes.set_xscale("log", base=2)
        axes.set_title("over one LoRA", fontsize=10, loc="left")
        axes.set_xlabel("rank")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.axes[0].set_ylabel("gain, nats per token")
    return figure


def _lines(
    axes: Axes, at: Sequence[float], line: Sequence[Point], keys: dict[str, str], colour: str, label: str
) -> None:
    axes.axhline(0, color=MUTED, lw=0.8)
    for route, style in (("router", "-"), ("oracle", ":")):
        gains = [point.gain(f"gradientspace/{route}", keys[route]) for point in line]
        axes.plot(
            at,
            [gain.mean for gain in gains],
            style,
            color=colour,
            marker="o",
            ms=3,
            label=f"{label}, {route}",
        )
        if route == "router":
            low, high = ([getattr(gain, end) for gain in gains] for end in ("low", "high"))
            axes.fill_between(at, low, high, color=colour, alpha=0.14, lw=0)
