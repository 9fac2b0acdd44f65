"""Which rows are shown of a cluster."""

from __future__ import annotations

import numpy as np

from training.clusters.assignment import Assignment
from training.report.examples import cluster_examples
from training.rows.rendering import TokenRow

ROWS = [TokenRow(f"r:{place}", "s" if place else None, "p", (1, 7, 2), 1) for place in range(8)]
ASSIGNMENT = Assignment(
    labels=np.array([0, 0, 0, 0, 1, 1, 0, 0]),
    cosine=np.array([0.9, 0.3, 0.5, 0.7, 0.2, 0.4, 0.99, 0.3]),
    margin=np.array([0.5, 0.02, 0.04, 0.01, 0.1, 0.2, 0.001, 0.03]),
    norm=np.ones(8),
    norm_share_b=np.ones(8),
    centroid_of_label=(0, 1),
    warnings=(),
)


def text_of(place: int) -> tuple[str, str]:
    return f"  prompt {place}\n", "answer " + "x" * 400 if place == 3 else f"answer {place}"


def test_nearest_and_most_ambiguous_of_the_members_only() -> None:
    asked: list[int] = []

    def noting(place: int) -> tuple[str, str]:
        asked.append(place)
        return text_of(place)

    first, second = cluster_examples(ROWS, [7, 5, 4, 3, 2, 1, 0], ASSIGNMENT, noting)  # row 6 is held out
    assert [row["origin"] for row in first["nearest"]] == ["r:0", "r:3", "r:2"]
    assert [row["origin"] for row in first["ambiguous"]] == ["r:3", "r:1", "r:7"]
    assert [row["origin"] for row in second["nearest"]] == ["r:5", "r:4"]  # no more than there are
    assert [row["origin"] for row in second["ambiguous"]] == ["r:4", "r:5"]
    assert 6 not in asked
    assert len(asked) == 10  # nothing is read but what is shown


def test_a_row_is_shown_with_its_numbers_and_the_beginning_of_its_text() -> None:
    (first, _) = cluster_examples(ROWS, range(8), ASSIGNMENT, text_of, count=4)
    row = first["nearest"][2]
    assert row["origin"] == "r:3"
    assert row["source"] == "s"
    assert (row["cosine"], row["margin"]) == (0.7, 0.01)
    assert row["prompt"] == "prompt 3"
    assert row["answer"] == "answer " + "x" * 293 + " …"
    assert first["nearest"][1]["source"] is None
