from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from evaluation.evidence.gradient_cosines import gradient_cosines
from evaluation.evidence.stage_two_variant import Span, Variant
from tests.stand_ins.planted import planted
from tests.stand_ins.tiny_comparison import store_in
from training.gradients.supply import row_gradients
from training.recipe import ClustersSection
from training.run import Run

SECTION = ClustersSection(batch_rows=8, min_rows=1, max_epochs=3)


def _span(norms: np.ndarray | None = None) -> tuple[Span, np.ndarray]:
    rows, labels = planted(3, each=24)
    norms = np.ones(len(rows)) if norms is None else norms
    return Span((rows @ rows.T).numpy(), norms, range(60), range(30)), labels


@pytest.mark.parametrize(
    "variant",
    [
        Variant(3),
        Variant(3, start="means"),
        Variant(3, cache="ring"),
        Variant(3, cache="none"),
        Variant(3, beta=0.0),
    ],
    ids=str,
)
def test_planted_clusters_are_found_by_every_variant(variant: Variant) -> None:
    span, labels = _span()
    found = span.partition(variant, SECTION, seed=0)
    assert adjusted_rand_score(labels, found.labels) == 1.0
    assert found.k == 3


def test_a_random_start_depends_on_its_seed_and_starts_at_rows() -> None:
    span, _ = _span()
    starts = [span._start(Variant(3, start="random"), SECTION, seed) for seed in (0, 1)]
    assert not np.allclose(starts[0], starts[1])
    own = span._unit.vectors[:30]
    assert all(np.isclose((own - row).norm(dim=1).min(), 0, atol=1e-5) for row in starts[0])


def test_raw_rows_let_a_few_long_ones_pull_the_centroids() -> None:
    rows, labels = planted(3, each=24, spread=0.12)
    norms = np.ones(len(rows))
    norms[np.flatnonzero(labels == 0)[:2]] = 1e3
    span = Span((rows @ rows.T).numpy(), norms, range(60), range(30))
    unit, raw = (span.partition(Variant(3, unit=unit), SECTION, seed=0) for unit in (True, False))
    assert adjusted_rand_score(labels, unit.labels) == 1.0
    assert adjusted_rand_score(labels, raw.labels) < 1.0


def test_the_span_gives_what_stage_two_gave_in_all_dimensions(tiny_run: Run, tmp_path: Path) -> None:
    run = tiny_run
    found = gradient_cosines(run.inputs, store_in(tmp_path), run.warmup, run.inputs.rows)
    span = Span(found.cosines, found.norms, run.inputs.split.train, run.inputs.split.probe)
    again = span.partition(Variant(2), run.inputs.recipe.clusters, run.inputs.recipe.seed)
    assert again.labels.tolist() == run.assigned.assignment.labels.tolist()


def test_cosines_and_norms_are_those_of_the_gradients(tiny_run: Run, tmp_path: Path) -> None:
    run = tiny_run
    rows = run.inputs.rows[:7]
    found = gradient_cosines(run.inputs, store_in(tmp_path), run.warmup, rows)
    with row_gradients(run.inputs, run.warmup) as source:
        whole = source.whole(rows).double().numpy()
    np.testing.assert_allclose(found.products, whole @ whole.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.norms, np.linalg.norm(whole, axis=1), rtol=1e-5)
