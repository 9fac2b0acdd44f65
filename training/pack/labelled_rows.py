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
from training.rows.files import records
from training.rows.reading import Unusable, parse_prompt
from training.rows.split import prompt_key, whole_prompts

_HELD_OUT = 0.2
_FEWEST_HELD_OUT = 2  # one for the temperature, one to measure on
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
        """Return the places to train on and those held out: a fifth of each expert's rows, drawn by the seed.

        Rows of one prompt stand on one side, whichever experts they are of.

        Raises:
            RowsError: there are too few distinct prompts to hold any out.

        """
        order = np.random.default_rng(seed).permutation(len(self.labels)).tolist()
        keys = [prompt_key(text) for text in self.texts]
        side: dict[str, bool] = {}
        for label in range(k):
            own = [place for place in order if self.labels[place] == label]
            known = sum(side.get(keys[place], False) for place in own)
            free = [place for place in own if keys[place] not in side]
            taken = whole_prompts(free, int(_HELD_OUT * len(own)) - known, keys) if len(set(keys)) > 1 else []
            side |= dict.fromkeys((keys[place] for place in free), False)
            side |= dict.fromkeys((keys[place] for place in taken), True)
        by_label = sorted(order, key=lambda place: self.labels[place])
        held_out = [place for place in by_label if side[keys[place]]]
        if len(held_out) < _FEWEST_HELD_OUT:
            raise RowsError(
                f"{len(self.texts):,} rows hold {len(set(keys)):,} distinct prompts, too few to hold a fifth out and "
                "measure the router on prompts that it has not learned. Give rows of more prompts."
            )
        return [place for place in by_label if not side[keys[place]]], held_out


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
            row = parse_prompt(origin, record)
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
