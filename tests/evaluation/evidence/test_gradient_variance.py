from __future__ import annotations

import numpy as np
import pytest

from evaluation.evidence.gradient_variance import _of, variance_by_partition
from tests.stand_ins.planted import planted
from tests.stand_ins.tiny_comparison import store_in
from training.run import Run


def test_true_clusters_hold_little_variance_and_random_parts_nearly_all_of_it() -> None:
    rows, labels = planted(4, each=25)
    found = {one.name: one for one in _of((rows @ rows.T).numpy(), {"gradient clusters": labels}, seed=0)}
    assert found["gradient clusters"].within < 0.2
    assert found["gradient clusters"].exceeding == 0
    assert found["random"].within == pytest.approx(1 - 3 / 99, abs=0.01)


def test_a_part_that_varies_more_than_the_whole_is_counted() -> None:
    rows = np.array([[0.0], [0.01], [0.02], [0.03], [-5.0], [5.0]])
    labels = np.array([0, 0, 0, 0, 1, 1])
    found = _of(rows @ rows.T, {"gradient clusters": labels}, seed=0)[0]
    assert found.exceeding == 1


def test_every_partition_is_measured_on_training_and_on_unseen_rows(
    tiny_run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    exhibit = variance_by_partition(tiny_run, store_in(tmp_path_factory.mktemp("variance")))
    assert [table.rows[place][0] for table in exhibit.tables for place in range(4)] == 2 * [
        *("gradient clusters", "K-means on text", "sources", "random")
    ]
    assert exhibit.failures == []
    for by_kind in (exhibit.figures["training rows"], exhibit.figures["validation rows"]):
        clusters, *_, random = by_kind["unit"]
        assert clusters["within"] < random["within"] <= 1
