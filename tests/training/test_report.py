"""What a run found: one page without the network, one JSON, one table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from training.assignment import Assignment
from training.rendering import TokenRow
from training.report import cluster_by_source, cluster_facts, write_assignments, write_report
from training.split import Split

SPLIT = Split(validation=(0, 5), train=(1, 2, 3, 4, 6, 7), warmup=(1,), probe=(2, 3))
LABELS = [1, 0, 0, 1, 0, 0, 1, 0]
SOURCES = ["sums", "sums", "sums", "story", None, "story", "story", "sums"]


@pytest.fixture
def rows() -> list[TokenRow]:
    return [TokenRow(f"r:{place}", source, "p", (1, 7, 2), 1) for place, source in enumerate(SOURCES)]


@pytest.fixture
def assignment() -> Assignment:
    return Assignment(
        labels=np.array(LABELS),
        cosine=np.linspace(0.1, 0.8, 8),
        margin=np.linspace(0.01, 0.08, 8),
        norm=np.arange(1.0, 9.0),
        norm_share_b=np.full(8, 0.6),
        k=2,
        warnings=("A cluster is tiny.",),
    )


def test_sources_are_counted_per_cluster(rows: list[TokenRow], assignment: Assignment) -> None:
    assert cluster_by_source(rows, assignment, SPLIT.train) == {"-": [1, 0], "story": [0, 2], "sums": [3, 0]}
    assert cluster_by_source(rows, assignment, range(8)) == {"-": [1, 0], "story": [1, 2], "sums": [3, 1]}


def test_facts_are_of_the_training_rows(rows: list[TokenRow], assignment: Assignment) -> None:
    facts = cluster_facts(rows, SPLIT, assignment)
    assert facts["rows"] == [4, 2]
    assert facts["share"] == pytest.approx([4 / 6, 2 / 6])
    assert facts["mean_cosine"] == pytest.approx([(0.2 + 0.3 + 0.5 + 0.8) / 4, (0.4 + 0.7) / 2])
    assert facts["mean_margin"] == pytest.approx(np.mean([0.02, 0.03, 0.04, 0.05, 0.07, 0.08]))
    assert facts["median_norm"] == pytest.approx(np.median([2, 3, 4, 5, 7, 8]))
    assert facts["norm_share_b"] == pytest.approx(0.6)
    assert facts["by_source"]["story"] == [0, 2]
    assert facts["warnings"] == ["A cluster is tiny."]
    assert json.loads(json.dumps(facts)) == facts  # it is kept as a stage's facts


def test_every_row_stands_in_the_table(rows: list[TokenRow], assignment: Assignment, tmp_path: Path) -> None:
    write_assignments(tmp_path / "a.parquet", rows, SPLIT, assignment)
    table = pq.read_table(tmp_path / "a.parquet").to_pydict()
    assert table["origin"] == [row.origin for row in rows]
    assert table["source"] == SOURCES
    assert table["part"] == [
        "validation",
        "warmup",
        "probe",
        "probe",
        "train",
        "validation",
        "train",
        "train",
    ]
    assert table["label"] == LABELS
    assert table["cosine"] == pytest.approx(assignment.cosine)
    assert table["norm"] == assignment.norm.tolist()


def report_of(facts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    grid = [
        {"threshold": 0.8, "components": 3, "k": 2, "silhouette": 0.6123},
        {"threshold": 0.9, "components": 5, "k": 3, "silhouette": 0.4},
    ]
    return {
        "base": {"name": "tiny"},
        "rows": {
            "used": 8, "train": 6, "validation": 2, "warmup": 1, "probe": 2,
            "unusable": [{"origin": "mine.jsonl:7", "reason": "it has no <b>response</b>"}],
        },
        "spectrum": {"k": 2, "components": 3, "grid": grid, "first_direction_share": 0.41},
        "calibration": {"epochs": [{"drift": 0.1, "churn": 1.0, "sizes": [4, 2]}], "converged": False},
        "clusters": facts,
        "terms": [["add", "numbers"], []],
        "warmup": {}, "experts": [{}, {}],
        "router": {"agreement": 0.875, "held_out_rows": 2, "temperature": 1.0, "encoder": "e"},
        "stages": {"warmup": {"seconds": 1.5, "peak_memory_mb": 321}},
    } | changes  # fmt: skip


def test_the_page_says_it_all_and_needs_nothing_else(
    rows: list[TokenRow], assignment: Assignment, tmp_path: Path
) -> None:
    report = report_of(cluster_facts(rows, SPLIT, assignment))
    write_report(tmp_path / "report", report)
    page = (tmp_path / "report" / "report.html").read_text()
    assert not re.search(r"""(src|href|url|import)\s*[=(]?\s*["']?\s*(https?:)?//""", page, re.IGNORECASE)
    assert not re.search(r"<(script|link|img|iframe)\b", page, re.IGNORECASE)
    for said in (
        "2 experts on tiny", "A cluster is tiny.", "87.5 %", "add, numbers", "66.7 %", "0.6123", "41.0 %",
        "Stopped at the epoch limit", "mine.jsonl:7", "321", "60 %",
    ):  # fmt: skip
        assert said in page, said
    assert "it has no &lt;b&gt;response&lt;/b&gt;" in page  # what rows hold is text, not markup
    assert re.search(r'<tr class="best">\s*<td>0\.8</td>', page)
    assert page.count('class="best"') == 1
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report


def test_a_report_that_lacks_something_is_not_written_half(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="undefined"):
        write_report(tmp_path / "report", {"base": {"name": "tiny"}})
    assert not (tmp_path / "report" / "report.html").exists()
