"""Table 1: what the comparison found, as numbers for a file and as Markdown for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.intervals import paired_differences, wilson_interval
from evaluation.seed.partition import ONLY
from evaluation.table_one.comparison import Comparison, Outcome
from training.rows.rendering import IGNORED

REFERENCE = "one-lora"
"""The method that every other is set against."""
NO_SIGNAL = "no signal"

Cells = dict[str, dict[str, Any]]


def table_one(found: Comparison, resamples: int) -> dict[str, Any]:
    """Return the table as results.json holds it.

    `table1` maps a method, and after a comma its way of choosing where it has two, to its metrics, and a metric to
    `{"mean", "std", "runs"}`. Losses are nats per response token, the rest are shares of 1. A method that failed in
    a seed has `failed` beside what its other seeds gave.
    """
    cells: dict[str, Cells] = {}
    for method in found.methods:
        for route in _routes(found, method.name):
            cells[_key(method.name, route)] = _metrics(found, method.name, route)
    for name, by_seed in found.failed.items():
        keys = [key for key in cells if key.partition(",")[0] == name] or [name]
        for key in keys:
            cells.setdefault(key, {})["failed"] = {str(seed): why for seed, why in by_seed.items()}
    _mark_floors(found, cells)
    against = _differences(found, resamples)
    return {
        "table1": cells,
        "differences": {
            name: {"loss_less_one_lora": [each["mean"][part] for part in ("mean", "low", "high")]}
            for name, each in against.items()
        },
        "against": {"method": REFERENCE, "loss": against},
        "row_visits": _of_runs(found, lambda outcome: outcome.row_visits),
        "learning_rates": _of_runs(found, lambda outcome: outcome.learning_rate),
        "router_agreement": _of_runs(found, lambda outcome: outcome.agreement),
        "validation_loss_by_rate": {
            name: {f"{rate:g}": loss for rate, loss in losses.items()} for name, losses in found.rates.items()
        },
        "test_rows": {source: len(places) for source, places in _by_source(found).items()},
        "answered_rows": len(found.asked),
        "answered_by": found.engine,
        "rows": {str(seed): asdict(facts) for seed, facts in found.seeds.items()},
        "missing": found.missing,
    }


def _routes(found: Comparison, name: str) -> list[str]:
    outcomes = found.outcomes.get(name, {})
    return list(next(iter(outcomes.values())).scores) if outcomes else []


def _key(name: str, route: str) -> str:
    return name if route == ONLY else f"{name}, {route}"


def _by_source(found: Comparison) -> dict[str, NDArray[np.int64]]:
    names = np.array([row.source for row in found.test])
    return {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())}


def _of_runs(found: Comparison, value: Any) -> dict[str, list[Any]]:
    return {
        name: [value(outcome) for outcome in by_seed.values()] for name, by_seed in found.outcomes.items()
    }


def _metrics(found: Comparison, name: str, route: str) -> Cells:
    outcomes = list(found.outcomes[name].values())
    cells: Cells = {}
    losses = []
    for source, places in _by_source(found).items():
        scores = [outcome.scores[route] for outcome in outcomes]
        each = [float(one.loss[places].sum() / one.tokens[places].sum()) for one in scores]
        losses.append(each)
        cells[f"loss/{source}"] = _cell(each)
        right = [float(one.right[places].sum() / one.tokens[places].sum()) for one in scores]
        cells[f"token_accuracy/{source}"] = _cell(right)
    cells["loss/mean over sources"] = _cell(np.mean(losses, axis=0).tolist())
    for source, asked in _asked(found).items():
        cells[f"exact_match/{source}"] = _cell([float(one.exact[route][asked].mean()) for one in outcomes])
    return cells


def _asked(found: Comparison) -> dict[str, NDArray[np.int64]]:
    """Places among the answered rows, by source."""
    return {
        source: np.flatnonzero(np.isin(found.asked, places))
        for source, places in _by_source(found).items()
        if np.isin(found.asked, places).any()
    }


def _cell(runs: Sequence[float]) -> dict[str, Any]:
    std = float(np.std(runs, ddof=1)) if len(runs) > 1 else None
    return {"mean": float(np.mean(runs)), "std": std, "runs": list(runs)}


def _mark_floors(found: Comparison, cells: dict[str, Cells]) -> None:
    """Mark a metric that no method lifts off its floor: what one fixed answer, or one fixed token, would score."""
    for metric, (floor, count) in _floors(found).items():
        having = [each[metric] for each in cells.values() if metric in each]
        lifted = any(
            cell["mean"] > floor and wilson_interval(round(cell["mean"] * count), count)[0] > floor
            for cell in having
        )
        for cell in having:
            cell["floor"] = floor
            if not lifted:
                cell["note"] = NO_SIGNAL


def _floors(found: Comparison) -> dict[str, tuple[float, int]]:
    facts = list(found.seeds.values())
    floors = {}
    for source, places in _by_source(found).items():
        tokens = [token for place in places for token in _response(found, int(place))]
        shares = [tokens.count(one.commonest_token.get(source, -1)) / len(tokens) for one in facts]
        floors[f"token_accuracy/{source}"] = (float(np.mean(shares)), len(tokens))
    for source, asked in _asked(found).items():
        answers = [found.test[int(found.asked[place])].answer for place in asked]
        shares = [answers.count(one.commonest_answer.get(source, "")) / len(answers) for one in facts]
        floors[f"exact_match/{source}"] = (float(np.mean(shares)), len(answers))
    return floors


def _response(found: Comparison, place: int) -> Sequence[int]:
    row = found.test[place].row
    return [token for token in row.labels if token != IGNORED]


def _differences(found: Comparison, resamples: int) -> dict[str, dict[str, dict[str, float]]]:
    """Loss of every method less that of one LoRA, over the seeds in which both came through."""
    differences: dict[str, dict[str, dict[str, float]]] = {}
    reference = found.outcomes.get(REFERENCE, {})
    for method in found.methods:
        outcomes = found.outcomes.get(method.name, {})
        both = sorted(outcomes.keys() & reference.keys())
        if method.name == REFERENCE or not both:
            continue
        for route in _routes(found, method.name):
            drawn = paired_differences(
                np.stack([outcomes[seed].scores[route].loss for seed in both]),
                np.stack([_only(reference[seed]).loss for seed in both]),
                _only(reference[both[0]]).tokens,
                [row.source for row in found.test],
                resamples,
            )
            differences[_key(method.name, route)] = {name: asdict(each) for name, each in drawn.items()}
    return differences


def _only(outcome: Outcome) -> Any:
    return outcome.scores[ONLY]
