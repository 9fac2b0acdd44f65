"""Online calibration against a naive reference: every gradient stored, plain lists, one row at a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.planted_calibration import (
    SECTION,
    D,
    K,
    N,
    never,
    planted_gradients,
    run,
    start_centroids,
)
from tests.stand_ins.tiny_model import PAD, PlantedSource, dozen_rows, tiny_llama, token_row, with_adapter
from training.clusters.cache import ExactCache, RingCache
from training.clusters.centroids import Calibrated, Movement, calibrate
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed
from training.progress import ignore_progress
from training.recipe import ClustersSection
from training.stages.processes import World


def kept(rows: list[Tensor], section: ClustersSection, cache: str) -> list[Tensor]:
    """Of all rows that ever came to a cluster, those that its cache still holds."""
    if cache == "exact":
        return rows[-section.cache_batches * section.batch_rows :]
    slots = [rows[first : first + section.batch_rows] for first in range(0, len(rows), section.batch_rows)]
    return [row for slot in slots[-section.cache_batches :] for row in slot]


def naive(
    gradients: Tensor, start: Tensor, section: ClustersSection, seed: int, cache: str
) -> list[tuple[list[int], Tensor]]:
    """Section 5.3.2 word for word, in float64: labels and centroids after each epoch."""
    unit = [(row / row.norm()).double() for row in gradients]
    centroids = [row.double() for row in start]
    came_ever: list[list[Tensor]] = [[] for _ in centroids]
    shuffler = np.random.default_rng(seed)
    labels = [-1] * len(unit)
    after: list[tuple[list[int], Tensor]] = []
    for _ in range(section.max_epochs):
        order = list(shuffler.permutation(len(unit)))
        while order:
            batch, order = order[: section.batch_rows], order[section.batch_rows :]
            came: dict[int, list[Tensor]] = {}
            for row in batch:
                labels[row] = max(range(len(centroids)), key=lambda k: float(unit[row] @ centroids[k]))
                came.setdefault(labels[row], []).append(unit[row])
            for k, rows in came.items():
                came_ever[k].extend(rows)
                mean = torch.stack(kept(came_ever[k], section, cache)).mean(0)
                moved = section.beta * centroids[k] + (1 - section.beta) * mean
                centroids[k] = moved / moved.norm()
        after.append((list(labels), torch.stack(centroids)))
    return after


@pytest.mark.parametrize("spread", [0.05, 0.4])
@pytest.mark.parametrize("beta", [0.0, 0.8])
@pytest.mark.parametrize("cache", ["exact", "ring"])
def test_it_equals_the_naive_reference(spread: float, beta: float, cache: str) -> None:
    gradients = planted_gradients(spread)
    section = SECTION.model_copy(update={"beta": beta})
    expected = naive(gradients, start_centroids(), section, 5, cache)
    found = run(gradients, section, 5, cache=cache)
    assert found.centroids.dtype == torch.float32
    assert torch.allclose(found.centroids.double(), expected[-1][1], atol=1e-5)
    assert torch.allclose(found.centroids.norm(dim=1), torch.ones(K), atol=1e-6)
    for epoch, (labels, _) in zip(found.epochs, expected, strict=True):
        assert list(epoch.sizes) == np.bincount(labels, minlength=K).tolist()
    for number, epoch in enumerate(found.epochs[1:], start=1):
        (before, old), (after, new) = expected[number - 1 : number + 1]
        assert epoch.churn == pytest.approx(np.mean([a != b for a, b in zip(before, after, strict=True)]))
        assert epoch.drift == pytest.approx(float((1 - (old * new).sum(1)).max()), abs=1e-6)


def test_a_rows_norm_counts_for_nothing() -> None:
    gradients = planted_gradients(0.3)
    bigger = gradients * torch.logspace(3, -3, N)[:, None]
    assert torch.allclose(run(gradients).centroids, run(bigger).centroids, atol=1e-5)


@pytest.mark.parametrize(("look_ahead", "asked"), [(1, [16] * 9 + [6]), (4, [64, 64, 22]), (99, [150])])
def test_gradients_are_asked_for_as_far_ahead_as_told(look_ahead: int, asked: list[int]) -> None:
    source = PlantedSource(planted_gradients(0.1))
    run(source, look_ahead=look_ahead)
    assert source.calls == asked * SECTION.max_epochs


@pytest.mark.parametrize("cache", ["exact", "ring"])
@pytest.mark.parametrize("spread", [0.05, 0.4])
def test_looking_ahead_changes_nothing(cache: str, spread: float) -> None:
    """The logical batch is what everything depends on."""
    gradients = planted_gradients(spread)
    one, *others = (run(gradients, cache=cache, look_ahead=ahead) for ahead in (1, 3, 16))
    for other in others:
        assert torch.equal(one.centroids, other.centroids)
        assert one.epochs == other.epochs


def test_only_the_rows_asked_for_take_part() -> None:
    """Rows are numbers: what lies between them is never looked at."""
    gradients = planted_gradients(0.3)
    picked = list(range(N - 1, 20, -3))
    alone = run(gradients[picked])
    source = PlantedSource(gradients)
    among = calibrate(
        source, picked, start_centroids(), SECTION, Movement("exact", 2), 0, never(), ignore_progress
    )
    assert torch.equal(alone.centroids, among.centroids)
    assert alone.epochs == among.epochs


def test_it_stops_when_the_centroids_hold_still() -> None:
    gradients = planted_gradients(0.01)
    eager = SECTION.model_copy(update={"max_epochs": 20, "max_drift": 1e-3, "max_churn": 0.005})
    found = run(gradients, eager)
    assert found.converged
    assert 2 <= len(found.epochs) < 20
    assert found.epochs[-1].drift < 1e-3
    assert found.epochs[-1].churn < 0.005
    assert found.epochs[0].churn == 1.0  # every row was new
    for epoch in found.epochs[:-1]:
        assert epoch.drift >= 1e-3 or epoch.churn >= 0.005
    assert not run(gradients).converged


def test_still_centroids_are_not_enough_while_rows_change() -> None:
    section = SECTION.model_copy(update={"max_drift": 10.0, "max_churn": 1e-9, "max_epochs": 2})
    found = run(planted_gradients(0.6), section)
    assert found.converged == (found.epochs[-1].churn < 1e-9)
    assert len(found.epochs) == 2
    section = SECTION.model_copy(update={"max_drift": 1e-12, "max_churn": 1.0, "max_epochs": 2})
    assert not run(planted_gradients(0.6), section).converged


def test_an_empty_cluster_stays_where_it_is() -> None:
    gradients = planted_gradients(0.05)
    start = start_centroids()
    away = normalize(-gradients.sum(0), dim=0)
    found = run(gradients, start=torch.cat([start, away[None]]))
    assert found.epochs[-1].sizes[-1] == 0
    assert torch.equal(found.centroids[-1], away)


def test_the_seed_decides_and_the_start_is_left_alone() -> None:
    gradients, start = planted_gradients(0.4), start_centroids()
    before = start.clone()
    first, again, other = (run(gradients, seed=seed, start=start) for seed in (1, 1, 2))
    assert torch.equal(start, before)
    assert torch.equal(first.centroids, again.centroids)
    assert first.epochs == again.epochs
    assert not torch.equal(first.centroids, other.centroids)


def test_micro_batches_change_no_label() -> None:
    """A real model, gradients a row at a time or all at once: the same clusters."""
    rows = [*dozen_rows(), *(token_row(4 + seed % 5, 3 + seed % 7, seed) for seed in range(20, 48))]
    section = ClustersSection(batch_rows=8, cache_batches=2, max_epochs=2)
    model = with_adapter(tiny_llama())
    found = []
    for budget in (1, 60, 1 << 20):
        with RowGradients(model, PAD, budget) as source:
            start = normalize(source.whole(rows[:3]), dim=1)
            given = Recomputed(source, rows, World())
            movement = Movement("exact", 2)
            found.append(
                calibrate(given, range(len(rows)), start, section, movement, 0, never(), ignore_progress)
            )
    for other in found[1:]:
        assert [epoch.sizes for epoch in other.epochs] == [epoch.sizes for epoch in found[0].epochs]
        assert [epoch.churn for epoch in other.epochs] == [epoch.churn for epoch in found[0].epochs]
        assert float((other.centroids * found[0].centroids).sum(1).min()) > 0.9999


def test_progress_counts_every_row_of_every_epoch() -> None:
    advanced: list[int] = []
    found = run(planted_gradients(0.4), advance=advanced.append)
    assert sum(advanced) == N * len(found.epochs)
    assert dataclasses.asdict(found.epochs[0]).keys() == {"drift", "churn", "sizes"}


@pytest.mark.parametrize(("cache", "kind"), [("exact", ExactCache), ("ring", RingCache)])
def test_the_caches_size_is_the_recipes(cache: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[Any, ...]] = []

    def watch(self: Any, *given: Any) -> None:
        made.append(given)
        original(self, *given)

    original = kind.__init__
    monkeypatch.setattr(kind, "__init__", watch)
    run(planted_gradients(0.1), cache=cache)
    window = (2 * 16,) if cache == "exact" else (2, 16)
    assert [given[: 2 + len(window)] for given in made] == [(K, *window, D)]


def labels_of(found: Calibrated, gradients: Tensor) -> NDArray[np.int64]:
    return (normalize(gradients, dim=1) @ found.centroids.T).argmax(1).numpy()


def test_a_row_without_a_gradient_does_no_harm() -> None:
    gradients = planted_gradients(0.3)
    gradients[::7] = 0
    for cache in ("exact", "ring"):
        found = run(gradients, SECTION.model_copy(update={"beta": 0.0}), cache=cache)
        assert bool(torch.isfinite(found.centroids).all())
        assert len(np.unique(labels_of(found, gradients))) == K
