"""Other orders of the rows: in the rows' own coordinates, and how far the partitions agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.tiny_model import PlantedSource, no_checkpoint
from training.clusters.centroids import Calibrated, Movement, calibrate
from training.clusters.row_orders import InCoordinates, shuffle_agreement
from training.gradients.source import UnitGradients
from training.progress import ignore_progress
from training.recipe import ClustersSection

N, D, K = 120, 400, 4
SECTION = ClustersSection(
    batch_rows=8, cache_batches=3, beta=0.8, max_epochs=3, max_drift=1e-9, max_churn=1e-9
)


def gradients_of(spread: float) -> tuple[Tensor, NDArray[np.int64]]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(K, (N,), generator=generator)
    centres = torch.linalg.qr(torch.randn(D, K, generator=generator))[0].T
    noise = spread * torch.randn(N, D, generator=generator) / D**0.5
    return normalize(centres[labels] + noise, dim=1), labels.numpy()


def gram_of(unit: Tensor) -> Tensor:
    return unit.double() @ unit.double().T


def run(source: UnitGradients, start: Tensor, seed: int, folder: Path, cache: str = "exact") -> Calibrated:
    return calibrate(
        source, range(N), start, SECTION, Movement(cache, 2), seed, no_checkpoint(folder), ignore_progress
    )


def start_of(unit: Tensor, seed: int = 0) -> Tensor:
    """Means of random rows: the same weights in any coordinates."""
    weights = torch.rand(K, N, generator=torch.Generator().manual_seed(seed)) ** 8
    return normalize(weights @ unit, dim=1)


def test_coordinates_keep_every_inner_product() -> None:
    unit, _ = gradients_of(2.0)
    source = InCoordinates(gram_of(unit))
    rows = [5, 0, 77, 5]
    advanced: list[int] = []
    found = source.unit(rows, advanced.append)
    assert found.shape == (4, N)
    assert source.dimension == N
    assert found.dtype == torch.float32
    assert sum(advanced) == 4
    assert torch.allclose(found.double() @ found.double().T, gram_of(unit[rows]), atol=1e-6)
    assert torch.allclose(found.norm(dim=1), torch.ones(4), atol=1e-6)
    compared = source.compare(rows, source.vectors[:3])
    assert torch.allclose(compared.cosines, gram_of(unit)[rows][:, :3], atol=1e-6)
    assert source.owners(rows) == [0, 0, 0, 0]


def test_rows_of_fewer_directions_than_rows_have_coordinates_too() -> None:
    """Rounding gives such a matrix eigenvalues a little below zero."""
    unit = normalize(torch.randn(N, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    found = InCoordinates(gram_of(unit)).vectors
    assert bool(torch.isfinite(found).all())
    assert torch.allclose(found.double() @ found.double().T, gram_of(unit), atol=1e-6)


@pytest.mark.parametrize("cache", ["exact", "ring"])
def test_calibration_in_coordinates_is_calibration_of_the_gradients(cache: str, tmp_path: Path) -> None:
    unit, _ = gradients_of(3.0)
    source = InCoordinates(gram_of(unit))
    inside = run(source, start_of(source.vectors), 3, tmp_path, cache)
    outside = run(PlantedSource(unit), start_of(unit), 3, tmp_path, cache)
    assert [epoch.sizes for epoch in inside.epochs] == [epoch.sizes for epoch in outside.epochs]
    assert [epoch.churn for epoch in inside.epochs] == [epoch.churn for epoch in outside.epochs]
    assert [epoch.drift for epoch in inside.epochs] == pytest.approx(
        [epoch.drift for epoch in outside.epochs], abs=1e-5
    )
    cosines = source.vectors @ inside.centroids.T, unit @ outside.centroids.T
    assert torch.allclose(*cosines, atol=1e-5)
    assert torch.equal(cosines[0].argmax(1), cosines[1].argmax(1))


def agreement(spread: float, folder: Path) -> list[float]:
    unit, _ = gradients_of(spread)
    source = InCoordinates(gram_of(unit))

    def partition_of(order: int) -> NDArray[np.int64]:
        found = run(source, start_of(source.vectors), order, folder)
        return (source.vectors @ found.centroids.T).argmax(1).numpy()

    return [pair["ari"] for pair in shuffle_agreement(partition_of, 3, "the probe")["pairs"]]


def test_clear_clusters_come_out_of_every_order_and_noise_does_not(tmp_path: Path) -> None:
    assert agreement(0.5, tmp_path) == [1.0] * 3
    of_noise = agreement(100.0, tmp_path)
    assert max(of_noise) < 0.8
    print(f"adjusted Rand index of noise: {of_noise}")


def test_every_pair_of_orders_is_compared_whatever_the_clusters_are_called() -> None:
    partitions = [[0, 0, 0, 1, 1, 1, 2, 2], [2, 2, 2, 0, 0, 0, 1, 1], [0, 1, 2, 0, 1, 2, 0, 1]]
    asked: list[int] = []

    def partition_of(order: int) -> NDArray[np.int64]:
        asked.append(order)
        return np.array(partitions[order])

    found = shuffle_agreement(partition_of, 3, "all training rows")
    assert asked == [0, 1, 2]
    assert (found["orders"], found["rows"], found["on"]) == (3, 8, "all training rows")
    assert [pair["orders"] for pair in found["pairs"]] == [[0, 1], [0, 2], [1, 2]]
    same, *others = [pair["ari"] for pair in found["pairs"]]
    assert same == 1.0
    assert max(others) < 0
