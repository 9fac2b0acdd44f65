from __future__ import annotations

from copy import copy
from dataclasses import replace

from evaluation.evidence.cluster_terms import cluster_terms
from training.run import Run


def test_every_training_row_is_counted_once_by_cluster_and_by_source(tiny_run: Run) -> None:
    exhibit = cluster_terms(tiny_run)
    figures = exhibit.figures
    rows = len(tiny_run.inputs.split.train)
    assert sum(figures["rows"]) == rows
    assert sum(sum(counts) for counts in figures["by_source"].values()) == rows
    assert set(figures["by_source"]) == {"arithmetic", "code", "finance", "reversal", "story"}
    assert exhibit.failures == []
    assert exhibit.picture is not None


def test_rows_without_a_source_still_have_terms_and_the_rest_is_said(tiny_run: Run) -> None:
    assert tiny_run.assigned
    run = copy(tiny_run)
    run.inputs = replace(run.inputs, rows=[replace(row, source=None) for row in run.inputs.rows])
    exhibit = cluster_terms(run)
    assert [table.title.partition(",")[0] for table in exhibit.tables] == ["Terms that set a cluster apart"]
    assert any(exhibit.figures["terms"])
    assert len(exhibit.failures) == 1
    assert "not one row carries a source" in exhibit.failures[0]
    assert exhibit.picture is None
