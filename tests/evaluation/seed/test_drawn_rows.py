"""Which rows are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from evaluation.seed.drawn_rows import Drawn, draw_rows, write_records
from tests.stand_ins.tiny_comparison import Files


def draw(files: Files, paths: list[Path], **changes: Any) -> Drawn:
    given: dict[str, Any] = {"first": 1, "per_source": None, "seed": 0, "max_length": 100} | changes
    tokenizer = AutoTokenizer.from_pretrained(files.base)
    recipe = files.recipe(Path("unused"))
    return draw_rows([str(path) for path in paths], recipe=recipe, tokenizer=tokenizer, **given)


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Twenty rows of two sources and without one, one of them far too long, one broken."""
    records: list[Any] = [
        {"instruction": f"Add {number}.", "output": str(number), "answer": number, "source": source}
        for number, source in enumerate(["left", "right"] * 9)
    ]
    records[4] = {"instruction": "x " * 300, "output": "y", "source": "left"}
    records[5] = {"instruction": "Nothing?", "output": "", "source": "right"}
    records += [{"instruction": f"Name {number}.", "output": "a"} for number in range(2)]
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_as_many_of_each_source_and_never_one_before_the_first(files: Files, mixed: Path) -> None:
    found = draw(files, [mixed], first=3, per_source=6)
    counts = {name: sum(row.source == name for row in found.rows) for name in found.sources}
    assert counts == {"left": 6, "right": 6, "mixed": 2}
    assert not {"Add 0.", "Add 1."} & {row.record["instruction"] for row in found.rows}
    assert {row.record["instruction"] for row in found.rows}.isdisjoint({"Nothing?"})
    assert all(len(row.row.input_ids) <= 100 for row in found.rows)


def test_all_of_them_in_their_order_where_no_number_is_given(files: Files, mixed: Path) -> None:
    found = draw(files, [mixed])
    assert len(found.rows) == 18
    assert [row.row.origin for row in found.rows][:5] == [f"mixed.jsonl:{n}" for n in (1, 2, 3, 4, 7)]
    assert found.rows[0].answer == "0"
    assert found.rows[-1].answer is None


def test_seeds_draw_differently_and_each_the_same_again(files: Files, mixed: Path) -> None:
    def names(seed: int) -> list[str]:
        return [row.record["instruction"] for row in draw(files, [mixed], per_source=4, seed=seed).rows]

    assert names(1) == names(1)
    assert set(names(1)) != set(names(2))


def test_a_file_that_is_missing_or_used_up_is_named(files: Files, mixed: Path, tmp_path: Path) -> None:
    found = draw(files, [tmp_path / "absent.jsonl", mixed])
    assert "there is no such file" in found.failed["absent"]
    assert len(found.rows) == 18
    assert "no usable row stands at 90 or after" in draw(files, [mixed], first=90).failed["mixed"]


def test_what_is_written_is_read_the_same(files: Files, mixed: Path, tmp_path: Path) -> None:
    found = draw(files, [mixed], per_source=3)
    write_records(tmp_path / "new" / "rows.jsonl", found.rows)
    again = draw(files, [tmp_path / "new" / "rows.jsonl"])
    assert [row.prompt for row in again.rows] == [row.prompt for row in found.rows]
    assert [row.source for row in again.rows] == [row.source for row in found.rows]
