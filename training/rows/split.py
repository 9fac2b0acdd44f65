"""Which row plays which part."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from training.errors import RowsError
from training.recipe import SplitSection


@dataclass(frozen=True)
class Split:
    """Row numbers, each list in drawn order. `warmup` and `probe` are disjoint parts of `train`.

    `stopping`, half of `validation`, says when the training of adapters stops; what they are worth is measured on
    others.
    """

    validation: tuple[int, ...]
    stopping: tuple[int, ...]
    train: tuple[int, ...]
    warmup: tuple[int, ...]
    probe: tuple[int, ...]


def split_rows(count: int, section: SplitSection, seed: int, prompts: Sequence[str] | None = None) -> Split:
    """Draw validation (outside everything), then warm-up and probe from the rest.

    Rows of one prompt go to one side of validation, all of them: what is measured there is then not what was learned
    by heart. Without repeats the draw is the same as without `prompts` [count].

    Raises:
        RowsError: there are too few rows, or too few prompts, for the parts to mean anything.

    """
    order = [int(row) for row in np.random.default_rng(seed).permutation(count)]
    validation_count = max(section.validation_at_least, round(section.validation * count))
    validation = whole_prompts(order, validation_count, prompts) if prompts else order[:validation_count]
    held_out = set(validation)
    train = tuple(row for row in order if row not in held_out)
    warmup_count = max(1, round(section.warmup * len(train)))
    probe_count = min(section.probe_at_most, max(section.probe_at_least, round(section.probe * len(train))))
    if warmup_count + probe_count > len(train):
        raise RowsError(
            f"{count} rows are too few: {validation_count} go to validation, and of the other "
            f"{max(0, len(train))} the warm-up needs {warmup_count} and the probe {probe_count}. Give more rows, or "
            "lower split.validation_at_least and split.probe_at_least."
        )
    if not validation:
        distinct = len(set(prompts or ()))
        raise RowsError(
            f"{count:,} rows hold {distinct:,} distinct prompt{'s' * (distinct != 1)}, the rarest of them more often "
            f"than the {validation_count:,} rows of validation: none could be held out without training on it too. "
            "Give rows of more prompts, or raise split.validation_at_least."
        )
    half = len(validation) // 2
    return Split(
        validation=tuple(validation),
        stopping=tuple(whole_prompts(validation, half, prompts) if prompts else validation[:half]),
        train=train,
        warmup=train[:warmup_count],
        probe=train[warmup_count : warmup_count + probe_count],
    )


def whole_prompts(order: Sequence[int], wanted: int, prompts: Sequence[str]) -> list[int]:
    """The first rows of the order, up to `wanted`, whole prompts only; one with too many rows is passed over."""
    of_prompt: dict[str, list[int]] = {}
    for row in order:
        of_prompt.setdefault(prompts[row], []).append(row)
    taken: list[int] = []
    for rows in of_prompt.values():
        if len(taken) + len(rows) <= wanted and len(rows) < len(order):
            taken += rows
    return taken


def prompt_key(text: str) -> str:
    """What makes two prompts the same: their words, whatever white space and case."""
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class Repeats:
    """How often rows say the same."""

    rows: int
    prompts: int
    """Distinct ones."""
    exact: int
    """Rows that stand there before, prompt and answer."""

    def line(self) -> str | None:
        """Say it, if there is something to say."""
        if self.prompts == self.rows:
            return None
        return (
            f"{self.rows:,} rows hold {self.prompts:,} distinct prompts; {self.exact:,} rows repeat an earlier one, "
            "prompt and answer. Rows of one prompt are kept on one side of the split"
        )


def count_repeats(prompts: Sequence[str], answers: Sequence[Hashable]) -> Repeats:
    """Count repeats among rows, by prompt and answer [N] each."""
    return Repeats(
        len(prompts), len(set(prompts)), len(prompts) - len(set(zip(prompts, answers, strict=True)))
    )
