"""Figures: the page's own colours and fonts, the same bytes twice, words for those who don't see them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from tests.stand_ins.small_report import small_report
from training.report import figures as report_figures
from training.report.page import draw_figures
from training.report.svg import ACCENT, Drawing

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def figures() -> dict[str, str]:
    return draw_figures(small_report())


def test_every_part_has_its_figure(figures: dict[str, str]) -> None:
    assert set(figures) == {
        *(
            "singular",
            "grid",
            "routed",
            "redrawn",
            "convergence",
            "margins",
            "variance",
            "layers",
            "modules",
            "losses-warm-up",
        )
    }


def test_two_runs_give_the_same_bytes(figures: dict[str, str]) -> None:
    assert draw_figures(small_report()) == figures


def test_colours_and_fonts_are_the_pages(figures: dict[str, str]) -> None:
    for name, drawing in figures.items():
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", drawing), name
        assert "font-family" not in drawing, name
        assert "<style" not in drawing, name  # it would hold for the whole page
        assert "var(--" in drawing


def test_each_is_one_element_with_words_for_what_it_shows(figures: dict[str, str]) -> None:
    for name, drawing in figures.items():
        root = ET.fromstring(drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img"
        assert re.search(r"\d", root.get("aria-label", "")), name
        assert root.get("viewBox")
        assert root.get("width") is None  # the page says how wide it is
        assert root.find(f".//{SVG}metadata") is None
        assert len(drawing) < 60_000, name


def test_no_id_stands_twice_in_a_page_and_each_reference_has_one(figures: dict[str, str]) -> None:
    page = "".join(figures.values())
    ids = Counter(re.findall(r'\bid="([^"]+)"', page))
    assert max(ids.values()) == 1
    assert {*re.findall(r"url\(#([^)]+)\)", page), *re.findall(r'href="#([^"]+)"', page)} <= set(ids)


def test_numbers_are_said_in_the_label(figures: dict[str, str]) -> None:
    assert "first direction holds 72.5 percent" in figures["singular"]
    assert "1 of 6 directions hold half" in figures["singular"]
    assert "highest is 0.6123 at K = 2, the lowest 0.2000" in figures["grid"]
    assert (
        "K = 2 was taken; the highest mean is 0.2222 at K = 2, one cluster for all has 0.1111"
        in figures["routed"]
    )
    assert "favours K = 2 in 90 percent of them and the silhouette K = 3 in 65 percent" in figures["redrawn"]
    assert "drift is 0.01000 and 2.00 percent" in figures["convergence"]
    assert "expert-0 0.250, expert-1 0.250" in figures["margins"]
    assert "10 percent in A, 90 percent in B; most of it, 60 percent, in layer 0" in figures["layers"]
    assert "q_proj 60 percent, up_proj 40 percent" in figures["modules"]


def test_a_cluster_above_the_whole_has_the_other_colour() -> None:
    quality = small_report()["quality"]
    quality["unit"]["exceeding"], quality["raw"]["exceeding"] = [], []
    assert "fill: var(--second)" not in report_figures.variances(quality)
    quality["raw"]["exceeding"] = [1]
    assert report_figures.variances(quality).count("fill: var(--second)") == 1


def test_a_given_number_has_no_figure_of_others() -> None:
    spectrum = small_report()["spectrum"]
    given = small_report(spectrum=spectrum | {"grid": spectrum["grid"][:1], "halves": None})
    assert not {"grid", "held_out", "redrawn"} & set(draw_figures(given))


def test_nothing_to_show_is_no_accident() -> None:
    still = [{"drift": 0.0, "churn": 1.0, "sizes": [3]}]
    assert "After 1 epochs" in report_figures.convergence(still, None, None)
    assert "Median margin" in report_figures.margins([None, [0.1] * 11])
    assert report_figures.singular_values([1.0], [0.9])


def test_what_a_label_says_can_not_leave_its_attribute() -> None:
    with Drawing("odd", 1.0) as drawing:
        drawing.axes[0].plot([1, 2], color=ACCENT)
        drawn = drawing.svg('a "quoted" <b>')
    assert 'aria-label="a &quot;quoted&quot; &lt;b&gt;"' in drawn
