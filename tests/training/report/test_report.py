"""What a run found: one page without the network, one JSON, one table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from jinja2 import UndefinedError

from tests.stand_ins.small_report import judged_router, small_report
from training.clusters.assignment import Assignment
from training.clusters.facts import cluster_by_source, cluster_facts, write_assignments
from training.report.report import write_report
from training.rows.rendering import TokenRow
from training.rows.split import Split

SPLIT = Split(validation=(0, 5), stopping=(5,), train=(1, 2, 3, 4, 6, 7), warmup=(1,), probe=(2, 3))
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
        centroid_of_label=(0, 1),
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
    assert facts["margins"][1] == pytest.approx(np.linspace(0.04, 0.07, 11))  # of the rows 3 and 6
    assert facts["margins"][0][5] == pytest.approx(0.04)
    assert facts["source_agreement"] is None  # a row has none
    assert facts["warnings"] == ["A cluster is tiny."]
    assert json.loads(json.dumps(facts)) == facts  # it is kept as a stage's facts


def test_agreement_with_the_sources_is_one_for_the_sources_themselves(
    rows: list[TokenRow], assignment: Assignment
) -> None:
    members = replace(SPLIT, train=(0, 1, 3, 5, 6, 7))
    as_labelled = [replace(row, source=str(label)) for row, label in zip(rows, LABELS, strict=True)]
    assert cluster_facts(as_labelled, members, assignment)["source_agreement"] == 1
    assert cluster_facts(rows, members, assignment)["source_agreement"] < 0.5
    alike = [replace(row, source="one") for row in rows]
    assert cluster_facts(alike, members, assignment)["source_agreement"] is None


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


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the second that drawing takes, where the words matter."""
    names = (
        "singular",
        "grid",
        "routed",
        "redrawn",
        "convergence",
        "margins",
        "variance",
        "layers",
        "modules",
    )
    monkeypatch.setattr("training.report.page.draw_figures", lambda _: dict.fromkeys(names, "<svg></svg>"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    write_report(folder, small_report())
    return (folder / "report.html").read_text()


def test_the_page_needs_nothing_from_anywhere(page: str) -> None:
    assert not re.search(r"""(src|href|url|import)\s*[=(]?\s*["']?\s*(https?:)?//""", page, re.IGNORECASE)
    assert not re.search(r"<(script|link|img|iframe)\b", page, re.IGNORECASE)
    assert "http" not in page


def test_the_page_says_it_all(page: str) -> None:
    for said in (
        "2 experts on tiny", "2 clusters. Usable, with 3 cautions below.",  # the verdict
        "A cluster is tiny.", "1 row could not be used",  # warnings
        "66.7 %", "0.910", "add, numbers",  # clusters
        "mine.jsonl:4 · sums · cosine 0.812 · margin 0.012",  # examples
        "adjusted Rand index of 0.21", "story",  # sources
        "0.6123", "72.7 %", "0.2222", "0.2122 to 0.2322", "0.1111", "65 %", "chosen by our rule",  # K
        "it is for 0 of 2 clusters with unit gradients and for 1 with raw ones",  # variance
        "0.345 on average",  # margins
        "60 % of a training row", "2.500",  # norms
        "Stopped at the epoch limit", "ring cache", "0.01000", "4 / 2",  # calibration
        "1 and 3", "0.910", "all training rows",  # orders
        "padding invariance", "1.2e-07", "at most 0.001", "not judged",  # checks
        "87.5 %", "3.250", "expert-1", "1.25",  # experts and router
        "321", "Not measured: the plan is a secret.",  # cost
        "mine.jsonl:7: it has no",
    ):  # fmt: skip
        assert said in page, said


def test_every_figure_of_the_page_stands_in_the_json(tmp_path: Path) -> None:
    report = small_report()
    written = write_report(tmp_path, report)
    assert json.loads((tmp_path / "report.json").read_text()) == written
    assert written["verdict"]["level"] == "care"
    assert {part: written[part] for part in report} == report


def test_what_rows_hold_is_text_and_no_markup(page: str) -> None:
    assert "it has no &lt;b&gt;response&lt;/b&gt;" in page
    assert "Is 1 &lt; 2 &amp; &lt;script&gt;alert(1)&lt;/script&gt;?" in page
    assert "Yes &lt;/p&gt;&lt;img src=x&gt;" in page


def test_the_k_that_was_taken_is_marked_and_the_highest_silhouette_outlined(page: str) -> None:
    assert re.findall(r'<tr class="best"><th scope="row">(.*?)</th>', page) == ["2 (taken)"]
    table = page[page.index('aria-label="Every K that was tried"') :]
    outlined = re.findall(r'<td class="heat own"[^>]*>([^<]*)<', table[: table.index("</table>")])
    assert outlined == ["0.6123"]


def test_every_table_has_headers_and_scrolls_in_its_own_box(page: str) -> None:
    tables = re.findall(
        r'<div class="scroll"[^>]* aria-label="[^"]+"><table>(.*?)</table></div>', page, re.DOTALL
    )
    assert len(tables) == page.count("<table>") >= 9
    for table in tables:
        assert 'scope="col"' in table
        assert 'scope="row"' in table
    assert all(f'href="#{anchor}"' in page for anchor in re.findall(r'<h2 id="([a-z]+)"', page))


def test_two_runs_of_the_same_numbers_give_the_same_bytes(page: str, tmp_path: Path) -> None:
    write_report(tmp_path, small_report())
    assert (tmp_path / "report.html").read_text() == page


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("part", ["quality", "norm_shares", "examples", "shuffle", "diagnosis", "plan"])
def test_what_was_not_measured_is_a_sentence(part: str, tmp_path: Path) -> None:
    report = small_report(not_measured={part: "it was left out"})
    report[part] = None
    write_report(tmp_path / "none", report)
    page = (tmp_path / "none" / "report.html").read_text()
    assert "Not measured: it was left out." in page
    del report[part]
    write_report(tmp_path / "missing", report)
    assert (tmp_path / "missing" / "report.html").read_text() == page


@pytest.mark.usefixtures("no_figures")
def test_the_plan_is_shown_in_sizes_one_can_read(tmp_path: Path) -> None:
    plan = {
        "dimension": 98560, "cache": "ring", "gradient_bytes": 394_240, "phases": {"calibration": 1_234_000_000},
        "passes": 1.5, "shortfall": None, "warnings": ["The disk is slow."],
    }  # fmt: skip
    write_report(tmp_path, small_report(plan=plan))
    page = (tmp_path / "report.html").read_text()
    table = page[page.index('aria-label="Plan of Stage II"') :]
    found = re.findall(r'<th scope="row">(.*?)</th><td class="text">(.*?)</td>', table)
    assert found == [
        ("dimension", "98,560"), ("cache", "ring"), ("gradient", "0.4 MB"), ("phase: calibration", "1,234.0 MB"),
        ("passes", "1.50"),
    ]  # fmt: skip
    assert '<p class="warning">The disk is slow.</p>' in page


@pytest.mark.usefixtures("no_figures")
def test_clusters_that_were_merged_are_missed_where_k_is_explained(tmp_path: Path) -> None:
    write_report(tmp_path, small_report(spectrum=small_report()["spectrum"] | {"k": 3}))
    assert "1 of these 3 clusters did not last" in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("no_figures")
def test_rows_without_a_source_are_not_compared_with_any(tmp_path: Path) -> None:
    clusters = small_report()["clusters"] | {"by_source": {"-": [4, 2]}, "source_agreement": None}
    write_report(tmp_path, small_report(clusters=clusters))
    page = (tmp_path / "report.html").read_text()
    assert "No row carries a source" in page
    assert "Rows of each source" not in page


@pytest.mark.usefixtures("no_figures")
def test_a_thousand_sources_do_not_make_a_thousand_rows(tmp_path: Path) -> None:
    by_source = {f"source-{number:04}": [number, 1] for number in range(1000)}
    clusters = small_report()["clusters"] | {"by_source": by_source}
    write_report(tmp_path, small_report(clusters=clusters))
    page = (tmp_path / "report.html").read_text()
    assert "source-0999" in page  # the largest
    assert "source-0959" not in page
    assert "960 other sources" in page
    assert "461,280" in page  # 0 + ... + 959, and one more of each


@pytest.mark.parametrize("part", ["base", "rows", "spectrum", "clusters", "router", "stages", "terms"])
def test_a_report_that_lacks_something_is_not_written_half(part: str, tmp_path: Path) -> None:
    report = small_report()
    del report[part]
    with pytest.raises((KeyError, UndefinedError)):
        write_report(tmp_path / "report", report)
    assert not (tmp_path / "report").exists()


def test_a_number_that_json_can_not_hold_is_refused(tmp_path: Path) -> None:
    report = small_report()
    report["clusters"]["median_norm"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path / "report", report)
    assert not (tmp_path / "report").exists()


def test_the_page_says_how_the_router_was_judged(tmp_path: Path) -> None:
    write_report(tmp_path, small_report(router=judged_router()))
    page = " ".join((tmp_path / "report.html").read_text().split())
    for said in (
        "the right cluster for 85.1 % of 1,500 held-out rows (95 % Wilson interval 81.0 % to 89.0 %)",
        "macro F1 0.777, expected calibration error 0.035",
        "fitted on 1,490 other held-out rows",
        "Precision: int8. In int8 99.61 % of 2,990 held-out decisions",
        "answers 43.2 % of the rows in the encoder's place and says what it says on 99.64 % of them",
        "costs 0.07 points",
        "semantic, served</th><td>85.2 %",
        "keyword</th><td>61.8 %",
        "At 99.0 % agreement 12.3 % of the rows can be routed; At 99.9 % agreement nothing can be shown",
    ):
        assert said in page, said


def test_the_page_says_why_there_is_no_cascade_and_no_abstention(tmp_path: Path) -> None:
    found = judged_router()["cascade_found"] | {"reason": "it would answer only 3.0 % of the rows"}
    write_report(
        tmp_path,
        small_report(
            router=judged_router(cascade_found=found, int8=None, precision="float32", target_agreement=0.99)
        ),
    )
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "Cascade: none, because it would answer only 3.0 % of the rows." in page
    assert "An agreement of 99.0 % was asked for, and these rows don't show it" in page
    assert "In int8" not in page


def test_the_gate_stands_first_with_every_expert_and_source(page: str, tmp_path: Path) -> None:
    assert page.index('id="splitting"') < page.index('id="clusters"')
    assert "<td>+0.1000 [-0.1000, +0.2000]</td>" in page
    assert "the expert, from a confidence of 0.90 on" in page
    assert "the fallback: not shown to help, left out" in page
    assert "too few rows" in page
    write_report(tmp_path, small_report(gate=None))
    assert "<code>router.gate</code> is off" in (tmp_path / "report.html").read_text()
