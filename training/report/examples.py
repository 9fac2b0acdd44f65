"""Rows to look at: the nearest to each centroid, and those that almost went elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.clusters.assignment import Assignment
from training.rows.rendering import TokenRow

_SHOWN = 300  # characters of a prompt or an answer


def cluster_examples(
    rows: Sequence[TokenRow],
    members: Sequence[int],
    assignment: Assignment,
    text_of: Callable[[int], tuple[str, str]],
    count: int = 3,
) -> list[dict[str, list[dict[str, Any]]]]:
    """Return, per cluster, its `count` nearest rows (highest cosine) and most ambiguous (smallest margin).

    `members` are the places in `rows` to choose from (the training rows), and `text_of(place)` gives a row's prompt
    and answer; it is asked for the chosen rows only. Equal values keep the order of `members`.
    """
    places = np.array(members, dtype=np.int64)
    examples = []
    for label in range(assignment.k):
        own = places[assignment.labels[places] == label]

        def best(keys: NDArray[np.float64], own: NDArray[np.int64] = own) -> list[dict[str, Any]]:
            chosen = own[np.argsort(keys[own], kind="stable")[:count]]
            return [_example(rows, int(place), assignment, text_of) for place in chosen]

        examples.append({"nearest": best(-assignment.cosine), "ambiguous": best(assignment.margin)})
    return examples


def _example(
    rows: Sequence[TokenRow],
    place: int,
    assignment: Assignment,
    text_of: Callable[[int], tuple[str, str]],
) -> dict[str, Any]:
    prompt, answer = text_of(place)
    return {
        "origin": rows[place].origin,
        "source": rows[place].source,
        "cosine": float(assignment.cosine[place]),
        "margin": float(assignment.margin[place]),
        "prompt": _shortened(prompt),
        "answer": _shortened(answer),
    }


def _shortened(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _SHOWN else text[:_SHOWN].rstrip() + " …"
