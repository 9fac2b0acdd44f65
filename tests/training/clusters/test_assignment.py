"""The final assignment: nearest centroid, largest cluster first, tiny ones merged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.thread_world import together
from tests.stand_ins.tiny_model import PAD, PlantedSource, no_checkpoint, tiny_llama, with_adapter
from training.clusters import assignment
from training.clusters.assignment import Assignment, ComparedRows, assign, compare_rows
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Compared, Recomputed
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World


def assigned(
    nearest: list[int],
    k: int,
    min_rows: int = 1,
    counted: list[bool] | None = None,
    second: list[int] | None = None,
) -> Assignment:
    """Assign rows whose cosine is 0.9 to `nearest`, 0.5 to `second` and 0.1 to the others."""
    n = len(nearest)
    cosines = np.full((n, k), 0.1)
    if second is not None:
        cosines[np.arange(n), second] = 0.5
    cosines[np.arange(n), nearest] = 0.9
    norms = np.arange(1, n + 1, dtype=float)
    marks = np.array(counted if counted is not None else [True] * n)
    return assign(ComparedRows(cosines, norms, np.full(n, 0.75)), marks, min_rows)


def test_the_nearest_centroid_the_margin_and_the_norm(tmp_path: Path) -> None:
    """Equation 9, on the gradients of a real model."""
    rows = [TokenRow(str(seed), None, "", tuple(range(6 + seed, 12 + 2 * seed)), 3) for seed in range(9)]
    with RowGradients(with_adapter(tiny_llama()), PAD, 40) as source:
        whole = source.whole(rows).double()
        centroids = normalize(whole[[1, 4, 6]], dim=1).float()
        given, lengths = Recomputed(source, rows, World()), [len(row.input_ids) for row in rows]
        compared = compare_rows(given, lengths, centroids, no_checkpoint(tmp_path), ignore_progress)
        found = assign(compared, np.ones(9, dtype=bool), 1)
        b = torch.cat([torch.arange(f.start, f.stop) for f in source.factors if f.is_b])
    cosines = normalize(whole, dim=1) @ centroids.double().T  # [9, 3]
    ranked = cosines.sort(descending=True).values
    sizes = cosines.argmax(1).bincount(minlength=3)
    order = (-sizes).argsort(stable=True)
    assert found.labels.tolist() == [order.tolist().index(label) for label in cosines.argmax(1).tolist()]
    assert found.cosine == pytest.approx(ranked[:, 0].numpy(), abs=1e-5)
    assert found.margin == pytest.approx((ranked[:, 0] - ranked[:, 1]).numpy(), abs=1e-5)
    assert found.norm == pytest.approx(whole.norm(dim=1).numpy(), rel=1e-4)
    share = whole[:, b].square().sum(1) / whole.square().sum(1)
    assert found.norm_share_b == pytest.approx(share.numpy(), rel=1e-4)
    assert (found.k, found.warnings) == (3, ())


def test_what_is_added_to_the_cosines_decides_and_the_cosine_stays_a_cosine() -> None:
    cosines = np.array([[0.30, 0.20, 0.10], [0.30, 0.20, 0.10], [0.10, 0.20, 0.30], [0.1, 0.2, 0.3]])
    drawn = np.array([[0, 0, 0], [-0.3, 0, 0], [0, -0.1, -0.1], [0, 0, -0.25]], dtype=np.float32)
    found = assign(ComparedRows(cosines, np.ones(4), np.ones(4)), np.ones(4, dtype=bool), 1, drawn)
    assert found.centroid_of_label == (1, 0, 2)
    assert found.labels.tolist() == [1, 0, 2, 0]
    assert found.cosine == pytest.approx([0.3, 0.2, 0.3, 0.2])
    assert found.margin == pytest.approx([0.1, 0.1, 0.1, 0.1])
    # Merged by score: the two rows of the tiny clusters go where their second best score is.
    merged = assign(ComparedRows(cosines, np.ones(4), np.ones(4)), np.ones(4, dtype=bool), 2, drawn)
    assert merged.k == 1 or merged.labels.tolist() != found.labels.tolist()


def test_clusters_are_numbered_by_size() -> None:
    found = assigned([0, 1, 1, 1, 2, 2], 3)
    assert found.labels.tolist() == [2, 0, 0, 0, 1, 1]
    assert assigned([1, 0, 1, 0, 2], 3).labels.tolist() == [1, 0, 1, 0, 2]  # equal sizes keep their order


def test_validation_rows_are_labelled_but_make_no_cluster_larger() -> None:
    nearest = [0, 0, 0, 1, 1, 1, 1, 1]
    counted = [True, True, True, True, True, False, False, False]
    found = assigned(nearest, 2, counted=counted)
    assert found.labels.tolist() == nearest  # cluster 0 has three rows that count, cluster 1 two
    merged = assigned(nearest, 2, min_rows=3, counted=counted)
    assert merged.k == 1
    assert set(merged.labels.tolist()) == {0}


def test_a_tiny_cluster_goes_to_the_next_best_and_is_reported() -> None:
    nearest = [0] * 5 + [1] * 2 + [2] * 4
    second = [2] * 5 + [2, 0] + [0] * 4
    found = assigned(nearest, 3, min_rows=3, second=second)
    assert found.k == 2
    assert found.labels.tolist() == [0] * 5 + [1, 0] + [1] * 4
    assert found.cosine[5:7].tolist() == pytest.approx([0.5, 0.5])
    assert found.margin[5:7].tolist() == pytest.approx([0.4, 0.4])  # among the clusters that are left
    assert len(found.warnings) == 1
    assert "tiny: only 2 rows" in found.warnings[0]
    assert "clusters.min_rows is 3" in found.warnings[0]


def test_a_dead_cluster_is_called_dead() -> None:
    found = assigned([0, 0, 2, 2], 3)
    assert found.k == 2
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert "is dead: no row" in found.warnings[0]


def test_merging_goes_on_until_none_is_tiny_and_one_is_left_at_least() -> None:
    # 1 row goes from cluster 3 to cluster 2, which is then large enough.
    found = assigned([0, 0, 0, 1, 1, 1, 2, 2, 3], 4, min_rows=3, second=[1, 1, 1, 0, 0, 0, 0, 0, 2])
    assert found.k == 3
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(found.warnings) == 1
    alone = assigned([0, 1, 2], 3, min_rows=100)
    assert alone.k == 1
    assert alone.labels.tolist() == [0, 0, 0]
    assert alone.margin.tolist() == pytest.approx([c + 1 for c in alone.cosine])  # no runner-up: cosine -1
    assert len(alone.warnings) == 2


def test_a_row_without_a_gradient_is_labelled_too(tmp_path: Path) -> None:
    """A row the model already writes with certainty: its gradient is zero, its cosine to anything 0."""
    gradients = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.0, 0.0]])
    compared = compare_rows(
        PlantedSource(gradients), [1, 1, 1], torch.eye(2), no_checkpoint(tmp_path), ignore_progress
    )
    found = assign(compared, np.ones(3, dtype=bool), 1)
    for values in (found.cosine, found.margin, found.norm, found.norm_share_b):
        assert np.isfinite(values).all()
    assert found.cosine[2] == 0


N, D, K = 151, 12, 3


class Killed(Exception):
    """The process."""


class Mortal(PlantedSource):
    """Notes what it compares, shares rows out, and dies at the given call."""

    world = World()
    dies_at = 10**9

    def owners(self, rows: Sequence[int]) -> list[int]:
        return [0 if row < 60 else row % self.world.size for row in rows]

    def compare(self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress) -> Compared:
        assert set(self.owners(rows)) == {self.world.rank}
        assert not hasattr(self, "asked") or self.asked[-1] <= rows[0]
        self.asked = list(rows)
        if len(self.calls) == self.dies_at:
            raise Killed
        return super().compare(rows, centroids, advance)


@pytest.fixture
def planted() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(N, D, generator=generator) * torch.logspace(-2, 2, N)[:, None]
    return gradients, normalize(torch.randn(K, D, generator=generator), dim=1)


def check(found: ComparedRows, planted: tuple[Tensor, Tensor]) -> None:
    gradients, centroids = planted
    expected = normalize(gradients, dim=1).double() @ centroids.double().T
    assert found.cosines == pytest.approx(expected.numpy(), abs=1e-6)
    assert found.norm == pytest.approx(gradients.double().norm(dim=1).numpy())
    assert found.share_b == pytest.approx(np.full(N, 0.75))


def test_rows_are_compared_in_pieces_of_one_length_each_once(
    planted: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    gradients, centroids = planted
    lengths = np.random.default_rng(0).integers(5, 50, size=N).tolist()
    asked: list[int] = []

    class Notes(PlantedSource):
        def compare(
            self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress
        ) -> Compared:
            asked.extend(rows)
            return super().compare(rows, centroids, advance)

    source, advanced = Notes(gradients), list[int]()
    found = compare_rows(source, lengths, centroids, no_checkpoint(tmp_path), advanced.append)
    check(found, planted)
    assert sorted(asked) == list(range(N))
    assert [lengths[row] for row in asked] == sorted(lengths)
    assert source.calls == [64, 64, 23]
    assert sum(advanced) == N


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dies_at", [0, 1, 3, 5])
def test_killed_and_resumed_by_one_process_or_several(
    planted: tuple[Tensor, Tensor], size: int, dies_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assignment, "_PIECE_ROWS", 8)
    gradients, centroids = planted

    def work(world: World, dies_at: int = 10**9) -> tuple[ComparedRows, int, int]:
        source, advanced = Mortal(gradients), list[int]()
        source.world, source.dies_at = world, dies_at
        at = Checkpoint(tmp_path / "at", "digest", 0.0, world)
        found = compare_rows(source, [1] * N, centroids, at, advanced.append)
        return found, sum(source.calls), sum(advanced)

    with pytest.raises(Killed):
        together(size, lambda world: work(world, dies_at))
    everyone = together(size, work)
    for found, _, _ in everyone:
        check(found, planted)
        assert np.array_equal(found.cosines, everyone[0][0].cosines)
    owners = np.bincount([0 if row < 60 else row % size for row in range(N)], minlength=size)
    for (_, compared, advanced), own in zip(everyone, owners.tolist(), strict=True):
        assert compared == max(0, own - 8 * dies_at)  # nothing twice
        assert advanced == own
