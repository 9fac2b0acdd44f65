"""The final assignment: nearest centroid, largest cluster first, tiny ones merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_model import PAD, numbered_rows, tiny_llama, with_adapter
from torch import Tensor
from torch.nn.functional import normalize

from training.assignment import Assignment, assign
from training.progress import ignore_progress
from training.rendering import TokenRow
from training.row_gradients import Contracted, RowGradients


@dataclass
class Planted:
    """Gives cosines that were made up, at made-up norms."""

    cosines: NDArray[np.float64]  # [N, K]
    norms: NDArray[np.float64]  # [N]

    def contracted(self, rows: list[TokenRow], centroids: Tensor, advance: object) -> Contracted:
        kept = Contracted(centroids, torch.from_numpy(self.cosines * self.norms[:, None]))
        kept.squared_norm_a = torch.from_numpy(self.norms**2 * 0.25)
        kept.squared_norm_b = torch.from_numpy(self.norms**2 * 0.75)
        return kept


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
    return assign(
        Planted(cosines, norms), numbered_rows(n), marks, torch.zeros(k, 4), min_rows, ignore_progress
    )


def test_the_nearest_centroid_the_margin_and_the_norm() -> None:
    """Equation 9, on the gradients of a real model."""
    rows = [TokenRow(str(seed), None, "", tuple(range(6 + seed, 12 + 2 * seed)), 3) for seed in range(9)]
    with RowGradients(with_adapter(tiny_llama()), PAD, 40) as source:
        whole = source.whole(rows).double()
        centroids = normalize(whole[[1, 4, 6]], dim=1).float()
        found = assign(source, rows, np.ones(9, dtype=bool), centroids, 1, ignore_progress)
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


def test_a_row_without_a_gradient_is_labelled_too() -> None:
    """A row the model already writes with certainty: its gradient is zero, its cosine to anything 0."""
    cosines, norms = np.array([[0.9, 0.1], [0.1, 0.9], [0.0, 0.0]]), np.array([1.0, 2.0, 0.0])
    found = assign(
        Planted(cosines, norms),
        numbered_rows(3),
        np.ones(3, dtype=bool),
        torch.zeros(2, 4),
        1,
        ignore_progress,
    )
    for values in (found.cosine, found.margin, found.norm, found.norm_share_b):
        assert np.isfinite(values).all()
    assert found.cosine[2] == 0
