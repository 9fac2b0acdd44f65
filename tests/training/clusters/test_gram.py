"""The Gram matrix in blocks, and sums of rows, against the gradients held whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.thread_world import together
from tests.stand_ins.tiny_model import PAD, PlantedSource, no_checkpoint, tiny_llama, with_adapter
from training.clusters import gram as gram_module
from training.clusters.count import choose_clusters
from training.clusters.gram import FactorShares, ProbeGradients
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed
from training.progress import Advance, ignore_progress
from training.recipe import ClustersSection
from training.rows.rendering import TokenRow
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

N, D = 23, 40
ALONE = World()


@pytest.fixture
def gradients() -> Tensor:
    sizes = torch.rand(N, 1, generator=torch.Generator().manual_seed(1)) + 0.5
    return sizes * torch.randn(N, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("block_rows", "rounds"), [(1, 23), (4, 6), (11, 3), (22, 2), (23, 1), (1000, 1)])
def test_blocks_equal_the_whole(gradients: Tensor, block_rows: int, rounds: int, tmp_path: Path) -> None:
    source = PlantedSource(gradients)
    probe = ProbeGradients(source, range(N), block_rows, ALONE)
    assert probe.rounds == rounds
    unit = normalize(gradients, dim=1)
    found = probe.gram(no_checkpoint(tmp_path))
    assert found.dtype == torch.float64
    assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-6)
    assert torch.allclose(found, found.T, atol=1e-6)
    weights = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    sums = probe.weighted_sums(weights)
    assert sums.shape == (3, D)
    assert sums.dtype == torch.float32
    assert torch.allclose(sums.double(), weights.T @ unit.double(), atol=1e-5)


def test_rows_are_numbers_of_the_run(gradients: Tensor, tmp_path: Path) -> None:
    picked = [17, 3, 22, 0, 9]
    unit = normalize(gradients[picked], dim=1)
    probe = ProbeGradients(PlantedSource(gradients), picked, 2, ALONE)
    assert torch.allclose(probe.gram(no_checkpoint(tmp_path)), (unit @ unit.T).double(), atol=1e-6)
    weights = torch.randn(5, 2, dtype=torch.float64)
    assert torch.allclose(probe.weighted_sums(weights).double(), weights.T @ unit.double(), atol=1e-5)


@pytest.mark.parametrize("block_rows", [1, 2, 7, 12, 22, 23, 1000])
def test_what_is_announced_is_what_is_computed(gradients: Tensor, block_rows: int, tmp_path: Path) -> None:
    source = PlantedSource(gradients)
    advanced: list[int] = []
    probe = ProbeGradients(source, range(N), block_rows, ALONE)
    announced = probe.computed_rows
    probe.gram(no_checkpoint(tmp_path), advanced.append)
    probe.weighted_sums(torch.ones(N, 2, dtype=torch.float64), advance=advanced.append)
    assert sum(source.calls) == announced == sum(advanced)
    assert max(source.calls) <= block_rows
    if block_rows >= N:
        assert announced == N  # held: computed once


class Killed(Exception):
    """The process."""


class Mortal(PlantedSource):
    """Dies at the given call."""

    dies_at = 10**9

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        if len(self.calls) == self.dies_at:
            raise Killed
        return super().unit(rows, advance)


def saving(folder: Path, world: World = ALONE) -> Checkpoint:
    return Checkpoint(folder / "gram", "digest", 0.0, world)


@pytest.mark.parametrize("dies_at", [0, 5, 6, 10, 11, 13, 14])
def test_killed_and_resumed_it_is_bit_for_bit_the_same(
    gradients: Tensor, dies_at: int, tmp_path: Path
) -> None:
    whole = ProbeGradients(PlantedSource(gradients), range(N), 5, ALONE).gram(no_checkpoint(tmp_path))
    source = Mortal(gradients)
    source.dies_at = dies_at  # of 5 + 4 + 3 + 2 + 1 blocks
    with pytest.raises(Killed):
        ProbeGradients(source, range(N), 5, ALONE).gram(saving(tmp_path))
    again, advanced = PlantedSource(gradients), list[int]()
    probe = ProbeGradients(again, range(N), 5, ALONE)
    assert torch.equal(probe.gram(saving(tmp_path), advanced.append), whole)
    rounds = sum(
        dies_at >= done for done in (5, 9, 12, 14)
    )  # that were over, so none of their blocks is fetched
    assert len(again.calls) == sum(range(1, 6 - rounds))
    assert sum(advanced) == probe.computed_rows - N


def test_a_checkpoint_of_other_blocks_counts_for_nothing(gradients: Tensor, tmp_path: Path) -> None:
    """The machine may have other room than before the kill: rounds are not what they were."""
    source = Mortal(gradients)
    source.dies_at = 12
    with pytest.raises(Killed):
        ProbeGradients(source, range(N), 5, ALONE).gram(saving(tmp_path))
    unit = normalize(gradients, dim=1)
    for block_rows in (3, 23, 9):
        found = ProbeGradients(PlantedSource(gradients), range(N), block_rows, ALONE).gram(
            Checkpoint(tmp_path / "gram", "digest", math.inf, ALONE)
        )
        assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-6)


class SharedOut(Mortal):
    """Rows dealt out over processes."""

    world = ALONE

    def owners(self, rows: Sequence[int]) -> list[int]:
        return [0 if row < 12 else row % self.world.size for row in rows]  # the first has most

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        assert set(self.owners(rows)) <= {self.world.rank}
        return super().unit(rows, advance)


@pytest.mark.parametrize("block_rows", [1, 4, 9, 100])
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_see_each_others_blocks(
    gradients: Tensor, size: int, block_rows: int, tmp_path: Path
) -> None:
    unit = normalize(gradients, dim=1)
    weights = torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    spans = [(0, 7), (7, 30), (30, D)]

    def work(world: World, dies_at: int = 10**9) -> tuple[Tensor, Tensor, list[float], bool]:
        source = SharedOut(gradients)
        source.world, source.dies_at = world, dies_at
        probe = ProbeGradients(source, range(N), block_rows, world)
        announced, shares = probe.computed_rows, FactorShares(spans)
        found = probe.gram(saving(tmp_path, world))
        sums = probe.weighted_sums(weights, shares)
        resumed = dies_at < 10**9
        return found, sums, shares.mean(world), resumed or sum(source.calls) == announced

    expected = unit.square().double()
    by_span = [float(expected[:, start:stop].sum() / N) for start, stop in spans]
    for found, sums, shares, as_announced in together(size, work):
        assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-6)
        assert torch.allclose(sums.double(), weights.T @ unit.double(), atol=1e-5)
        assert shares == pytest.approx(by_span, abs=1e-6)
        assert as_announced


def test_the_shares_of_the_factors_add_up_to_one(gradients: Tensor) -> None:
    unit = normalize(gradients, dim=1)
    shares = FactorShares([(0, 10), (10, D)])
    probe = ProbeGradients(PlantedSource(gradients), range(N), 4, ALONE)
    probe.weighted_sums(torch.ones(N, 1, dtype=torch.float64), shares)
    found = shares.mean(ALONE)
    assert found == pytest.approx(
        [float(unit[:, :10].square().sum() / N), float(unit[:, 10:].square().sum() / N)]
    )
    assert sum(found) == pytest.approx(1)


def test_wide_gradients_are_multiplied_in_pieces(
    gradients: Tensor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(gram_module, "_COLUMNS", 7)
    unit = normalize(gradients, dim=1)
    found = ProbeGradients(PlantedSource(gradients), range(N), 5, ALONE).gram(no_checkpoint(tmp_path))
    assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-6)


def test_the_blocks_of_a_real_model(rows: list[TokenRow], tmp_path: Path) -> None:
    with RowGradients(with_adapter(tiny_llama()), PAD, 64) as source:
        unit = normalize(source.whole(rows), dim=1)
        given = Recomputed(source, rows, ALONE)
        found = ProbeGradients(given, range(len(rows)), 3, ALONE).gram(no_checkpoint(tmp_path))
    assert torch.allclose(found, (unit @ unit.T).double(), atol=1e-5)
    assert torch.allclose(found.diagonal(), torch.ones(len(rows), dtype=torch.float64), atol=1e-5)


def test_lifted_centroids_sort_unseen_rows_as_the_subspace_does(gradients: Tensor, tmp_path: Path) -> None:
    """c_k = V_k c (design, "Lift"): V_k is orthonormal, so <g, V_k c> = <V_k^T g, c> for any g."""
    unit = normalize(gradients, dim=1)
    probe = ProbeGradients(PlantedSource(gradients), range(N), N, ALONE)
    section = ClustersSection(k=3, rule="paper", thresholds=(0.8,), n_init=3)
    start = choose_clusters(probe.gram(no_checkpoint(tmp_path)), section, seed=0)
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
