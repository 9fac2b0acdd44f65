"""Rows that say which expert is to answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import RoutedTextRule
from router.text import routed_text
from training.errors import RowsError
from training.rows.reading import Unusable, parse_prompt, records

_HELD_OUT = 0.2
FEWEST = round(1 / _HELD_OUT)
"""Rows of an expert below which none of them could be held out."""


@dataclass(frozen=True)
class LabelledRows:
    """What the router learns from, in the order of the files."""

    texts: Sequence[str]
    """What the router reads of each prompt."""
    labels: NDArray[np.int64]
    """[N], the expert's place."""

    def counts(self, k: int) -> list[int]:
        """Rows of each of the k experts."""
        return [int(count) for count in np.bincount(self.labels, minlength=k)]

    def split(self, k: int, seed: int) -> tuple[list[int], list[int]]:
        """Return the places to train on and those held out: a fifth of each expert's rows, drawn by the seed."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        train: list[int] = []
        held_out: list[int] = []
        for label in range(k):
            own = [int(place) for place in order if self.labels[place] == label]
            count = int(_HELD_OUT * len(own))
            held_out += own[:count]
            train += own[count:]
        return train, held_out


def read_labelled_rows(
    files: Sequence[str], column: str, names: Sequence[str], rule: RoutedTextRule
) -> LabelledRows:
    """Read rows in any form that training takes, a response not needed; `column` names one of `names`.

    Raises:
        RowsError: the first row that can't be used, by file and line; or an expert with too few of them.

    """
    places = {name: place for place, name in enumerate(names)}
    texts: list[str] = []
    labels: list[int] = []
    for file in files:
        before = len(texts)
        for origin, record in records(file):
            row = record if isinstance(record, Unusable) else parse_prompt(origin, record)
            if isinstance(row, Unusable):
                raise RowsError(f"{row.origin}: {row.reason}. Mend this row or remove it.")
            label = record.get(column)
            if not isinstance(label, str) or label not in places:
                raise RowsError(_wrong_label(origin, column, label, record, names))
            text = routed_text(row.prompt, rule)
            if not text.strip():
                raise RowsError(f"{origin}: its last user turn is empty. Mend this row or remove it.")
            texts.append(text)
            labels.append(places[label])
        if len(texts) == before:
            raise RowsError(f"{file}: there is not one row in it.")
    _refuse_too_few(Counter(labels), names, column)
    return LabelledRows(texts, np.array(labels, dtype=np.int64))


def _wrong_label(
    origin: str, column: str, label: object, record: dict[str, object], names: Sequence[str]
) -> str:
    known = ", ".join(names)
    if column not in record:
        return (
            f"{origin}: it has no column {column!r}, only {', '.join(sorted(record))}. Name the one that says which "
            "expert is to answer with --label-column."
        )
    return (
        f"{origin}: its {column!r} is {label!r}, and there is no such --adapter, only {known}. Add the adapter, or "
        "remove the rows."
    )


def _refuse_too_few(counts: Counter[int], names: Sequence[str], column: str) -> None:
    for place, name in enumerate(names):
        if counts[place] == 0:
            raise RowsError(
                f"--adapter {name}: no row has {name!r} in {column!r}, so the router could never choose it. Give it "
                "rows, or leave the adapter out."
            )
        if counts[place] < FEWEST:
            raise RowsError(
                f"--adapter {name}: it has {counts[place]} rows, and a fifth is held out to measure the router. Give "
                f"at least {FEWEST}."
            )
