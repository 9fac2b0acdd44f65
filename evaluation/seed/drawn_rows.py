"""Draw the rows of a comparison: for each seed those to train on, and once, for all seeds, those to judge by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from training.errors import RowsError
from training.recipe import Recipe
from training.rows.files import records
from training.rows.reading import HowToRead, Row, parse_row
from training.rows.rendering import TokenRow, prompt_ids, render


@dataclass(frozen=True)
class DrawnRow:
    """A row that was drawn: its record as it stood in the file, rendered; its prompt's ids; its short answer."""

    record: dict[str, Any]
    row: TokenRow
    prompt: Sequence[int]
    text: str
    answer: str | None

    @property
    def source(self) -> str:
        """Where it comes from: its own word for it, else its file's name."""
        return str(self.record["source"])


@dataclass
class Drawn:
    """Rows by source, and why a source has none."""

    rows: list[DrawnRow] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    too_long: int = 0

    @property
    def sources(self) -> list[str]:
        """The sources in the order of the files."""
        return list(dict.fromkeys(row.source for row in self.rows))


def draw_rows(
    files: Sequence[str],
    first: int,
    per_source: int | None,
    seed: int,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Drawn:
    """Draw up to `per_source` usable rows of each source from row `first` of every file on.

    A file that can't be read, or has no usable row left, is said in `failed`, and the others go on. Rows that are
    too long for `data.max_length` are passed over, so that every source that has enough gives the same number.
    """
    drawn = Drawn()
    for number, file in enumerate(files):
        name = Path(file).stem
        try:
            found = [record for _, record in records(file)][first - 1 :]
        except RowsError as error:
            drawn.failed[name] = str(error)
            continue
        order = np.random.default_rng([seed, number]).permutation(len(found))
        sources = {_source(record, name) for record in found}
        taken: dict[str, int] = {}
        for place in sorted(order.tolist()) if per_source is None else order.tolist():
            made = _drawn(
                f"{Path(file).name}:{first + place}", found[place], name, recipe, tokenizer, max_length
            )
            if made is None:
                drawn.too_long += 1
            elif per_source is None or taken.get(made.source, 0) < per_source:
                taken[made.source] = taken.get(made.source, 0) + 1
                drawn.rows.append(made)
            if per_source is not None and sum(taken.values()) == per_source * len(sources):
                break
        if not taken:
            drawn.failed[name] = f"{file}: no usable row stands at {first} or after"
    return drawn


def write_records(path: Path, rows: Sequence[DrawnRow]) -> None:
    """Write rows as JSONL, so that training reads exactly these."""
    lines = [json.dumps(row.record, ensure_ascii=False) + "\n" for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def _source(record: Any, name: str) -> str:
    source = record.get("source") if isinstance(record, dict) else None
    return source if isinstance(source, str) else name


def _drawn(
    origin: str,
    record: Any,
    name: str,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> DrawnRow | None:
    parsed = parse_row(origin, record, HowToRead.of(recipe.data))
    if not isinstance(parsed, Row):
        return None
    rendered = render(tokenizer, parsed, recipe.router.routed_text, max_length)
    if not isinstance(rendered, TokenRow):
        return None
    answer = record.get("answer")
    source = _source(record, name)
    return DrawnRow(
        record={**record, "source": source},
        row=replace(rendered, source=source),
        prompt=prompt_ids(tokenizer, parsed.prompt, parsed.tools),
        text="\n".join([*(message["content"] for message in parsed.prompt), parsed.completion]),
        answer=str(answer) if isinstance(answer, str | int | float) else None,
    )
