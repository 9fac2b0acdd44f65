"""The Gram matrix in blocks, and sums of rows, against the gradients held whole."""

from __future__ import annotations

import pytest
import torch
from tiny_model import PAD, PlantedSource, numbered_rows, tiny_llama, with_adapter
from torch import Tensor
from torch.nn.functional import normalize

from training import gram as gram_module
from training.cluster_count import choose_clusters
from training.gram import ProbeGradients
from training.recipe import ClustersSection
from training.rendering import TokenRow
from training.row_gradients import RowGradients

N, D = 23, 40
ROW_BYTES = D * 4


@pytest.fixture
def gradients() -> Tensor:
    sizes = torch.rand(N, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    return sizes * torch.randn(N, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("rows_in_memory", "block_rows"), [(1, 1), (2, 1), (3, 1), (8, 4), (22, 11), (23, 23), (1000, 23)]
)
def test_blocks_equal_the_whole(gradients: Tensor, rows_in_memory: int, block_rows: int) -> None:
    source = PlantedSource(gradients)
    probe = ProbeGradients(source, numbered_rows(N), rows_in_memory * ROW_BYTES)
    assert probe.block_rows == block_rows
    unit = normalize(gradients, dim=1)
    found = probe.gram()
    assert found.dtype == torch.float64
    assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-6)
    assert torch.allclose(found, found.T, atol=1e-6)
    weights = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sums = probe.weighted_sums(weights)
    assert sums.shape == (3, D)
    assert torch.allclose(sums.double(), weights.T @ unit.double(), atol=1e-5)


@pytest.mark.parametrize("rows_in_memory", [1, 2, 7, 12, 22, 23, 1000])
def test_what_is_announced_is_what_is_computed(gradients: Tensor, rows_in_memory: int) -> None:
    source = PlantedSource(gradients)
    advanced: list[int] = []
    probe = ProbeGradients(source, numbered_rows(N), rows_in_memory * ROW_BYTES)
    announced = probe.computed_rows
    probe.gram(advanced.append)
    probe.weighted_sums(torch.ones(N, 2, dtype=torch.float64), advanced.append)
    assert sum(source.calls) == announced == sum(advanced)
    assert max(source.calls) <= max(1, rows_in_memory)
    if rows_in_memory >= N:
        assert announced == N  # held: computed once


def test_wide_gradients_are_multiplied_in_pieces(gradients: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gram_module, "_COLUMNS", 7)
    unit = normalize(gradients, dim=1)
    found = ProbeGradients(PlantedSource(gradients), numbered_rows(N), 10 * ROW_BYTES).gram()
    assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-6)


def test_the_blocks_of_a_real_model(rows: list[TokenRow]) -> None:
    with RowGradients(with_adapter(tiny_llama()), PAD, 64) as source:
        unit = normalize(source.whole(rows), dim=1)
        found = ProbeGradients(source, rows, 7 * source.dimension * 4).gram()
    assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-5)
    assert torch.allclose(found.diagonal(), torch.ones(len(rows), dtype=torch.float64), atol=1e-5)


def test_lifted_centroids_sort_unseen_rows_as_the_subspace_does(gradients: Tensor) -> None:
    """c_k = V_k c (design, "Lift"): V_k is orthonormal, so <g, V_k c> = <V_k^T g, c> for any g."""
    unit = normalize(gradients, dim=1)
    probe = ProbeGradients(PlantedSource(gradients), numbered_rows(N), 1 << 20)
    section = ClustersSection(k=3, thresholds=(0.8,), n_init=3)
    start = choose_clusters(probe.gram(), section, seed=0)
    lifted = probe.weighted_sums(start.weights).double()  # [3, d]
    # The same from the SVD that is never formed in earnest.
    _, _, v = torch.linalg.svd(unit.double(), full_matrices=False)
    v = v[: start.components]  # [k, d]
    in_subspace = lifted @ v.T  # [3, k]
    assert torch.allclose(in_subspace @ v, lifted, atol=1e-5)  # nothing of a lifted centroid lies outside
    labels = torch.tensor(start.probe_labels)
    means = torch.stack([(unit.double() @ v.T)[labels == label].mean(0) for label in range(3)])
    assert torch.allclose(in_subspace, means, atol=1e-5)  # and in it, it is K-means' centroid
    unseen = normalize(
        torch.randn(500, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9)), dim=1
    )
    assert torch.equal((unseen @ lifted.T).argmax(1), ((unseen @ v.T) @ means.T).argmax(1))
