"""Which row plays which part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.errors import RowsError
from training.recipe import SplitSection


@dataclass(frozen=True)
class Split:
    """Row numbers, each list in drawn order. `warmup` and `probe` are disjoint parts of `train`."""

    validation: tuple[int, ...]
    train: tuple[int, ...]
    warmup: tuple[int, ...]
    probe: tuple[int, ...]


def split_rows(count: int, section: SplitSection, seed: int) -> Split:
    """Draw validation (outside everything), then warm-up and probe from the rest.

    Raises:
        RowsError: there are too few rows for the parts to mean anything.

    """
    order = [int(row) for row in np.random.default_rng(seed).permutation(count)]
    validation_count = max(section.validation_at_least, round(section.validation * count))
    train = tuple(order[validation_count:])
    warmup_count = max(1, round(section.warmup * len(train)))
    probe_count = min(section.probe_at_most, max(section.probe_at_least, round(section.probe * len(train))))
    if warmup_count + probe_count > len(train):
        raise RowsError(
            f"{count} rows are too few: {validation_count} go to validation, and of the other "
            f"{max(0, len(train))} the warm-up needs {warmup_count} and the probe {probe_count}. Give more rows, or "
            "lower split.validation_at_least and split.probe_at_least."
        )
    return Split(
        validation=tuple(order[:validation_count]),
        train=train,
        warmup=train[:warmup_count],
        probe=train[warmup_count : warmup_count + probe_count],
    )
