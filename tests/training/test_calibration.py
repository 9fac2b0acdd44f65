"""Online calibration against a naive reference: every gradient stored, plain lists, one row at a time."""

from __future__ import annotations

import dataclasses
from collections import deque

import numpy as np
import pytest
import torch
from tiny_model import PAD, PlantedSource, dozen_rows, numbered_rows, tiny_llama, token_row, with_adapter
from torch import Tensor
from torch.nn.functional import normalize

from training.calibration import Calibrated, calibrate
from training.progress import ignore_progress
from training.recipe import ClustersSection
from training.row_gradients import RowGradients

K, D, N = 3, 24, 150
SECTION = ClustersSection(
    batch_rows=16, cache_batches=2, beta=0.8, max_epochs=3, max_drift=1e-9, max_churn=1e-9
)


def planted_gradients(spread: float) -> Tensor:
    """Rows of very different norm around K directions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.linalg.qr(torch.randn(D, D, generator=generator))[0][:K]
    labels = torch.randint(K, (N,), generator=generator)
    noise = spread * torch.randn(N, D, generator=generator)
    return (centres[labels] + noise) * torch.logspace(-2, 2, N)[:, None]


def start_centroids() -> Tensor:
    return normalize(torch.randn(K, D, generator=torch.Generator().manual_seed(3)), dim=1)


def naive(
    gradients: Tensor, start: Tensor, section: ClustersSection, seed: int
) -> list[tuple[list[int], Tensor]]:
    """Section 5.3.2 word for word, in float64: labels and centroids after each epoch."""
    unit = [(row / row.norm()).double() for row in gradients]
    centroids = [row.double() for row in start]
    caches: list[deque[Tensor]] = [
        deque(maxlen=section.cache_batches * section.batch_rows) for _ in centroids
    ]
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
                caches[k].extend(rows)
                mean = torch.stack(list(caches[k])).mean(0)
                moved = section.beta * centroids[k] + (1 - section.beta) * mean
                centroids[k] = moved / moved.norm()
        after.append((list(labels), torch.stack(centroids)))
    return after


def run(gradients: Tensor, section: ClustersSection = SECTION, seed: int = 0) -> Calibrated:
    source = PlantedSource(gradients)
    return calibrate(source, numbered_rows(len(gradients)), start_centroids(), section, seed, ignore_progress)


@pytest.mark.parametrize("spread", [0.05, 0.4])
@pytest.mark.parametrize("beta", [0.0, 0.8])
def test_it_equals_the_naive_reference(spread: float, beta: float) -> None:
    gradients = planted_gradients(spread)
    section = SECTION.model_copy(update={"beta": beta})
    expected = naive(gradients, start_centroids(), section, seed=5)
    found = run(gradients, section, seed=5)
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


def test_the_logical_batch_is_what_is_asked_for() -> None:
    source = PlantedSource(planted_gradients(0.1))
    calibrate(source, numbered_rows(N), start_centroids(), SECTION, 0, ignore_progress)
    epoch = [16] * (N // 16) + [N % 16]
    assert source.calls == epoch * SECTION.max_epochs


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
    found = calibrate(
        PlantedSource(gradients),
        numbered_rows(N),
        torch.cat([start, away[None]]),
        SECTION,
        0,
        ignore_progress,
    )
    assert found.epochs[-1].sizes[-1] == 0
    assert torch.equal(found.centroids[-1], away)


def test_the_seed_decides_and_the_start_is_left_alone() -> None:
    gradients, start = planted_gradients(0.4), start_centroids()
    before = start.clone()
    first, again, other = (
        calibrate(PlantedSource(gradients), numbered_rows(N), start, SECTION, seed, ignore_progress)
        for seed in (1, 1, 2)
    )
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
            found.append(calibrate(source, rows, start, section, 0, ignore_progress))
    for other in found[1:]:
        assert [epoch.sizes for epoch in other.epochs] == [epoch.sizes for epoch in found[0].epochs]
        assert [epoch.churn for epoch in other.epochs] == [epoch.churn for epoch in found[0].epochs]
        assert float((other.centroids * found[0].centroids).sum(1).min()) > 0.9999


def test_progress_counts_every_row_of_every_epoch() -> None:
    advanced: list[int] = []
    source = PlantedSource(planted_gradients(0.4))
    found = calibrate(source, numbered_rows(N), start_centroids(), SECTION, 0, advanced.append)
    assert sum(advanced) == N * len(found.epochs)
    assert dataclasses.asdict(found.epochs[0]).keys() == {"drift", "churn", "sizes"}
