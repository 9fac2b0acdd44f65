"""Rows that say which adapter is to answer, and what is said of those that can't be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.packing_world import labelled, write_rows
from training.errors import RowsError
from training.pack.labelled_rows import LabelledRows, read_labelled_rows


def read(path: Path, names: tuple[str, ...] = ("math", "story"), column: str = "expert") -> LabelledRows:
    return read_labelled_rows([str(path)], column, names, "last_user")


def test_every_form_is_read_without_a_response(tmp_path: Path) -> None:
    rows = read(write_rows(tmp_path / "rows.jsonl", labelled()))
    assert rows.counts(2) == [12, 12]
    assert rows.texts[:3] == [
        "Give the total of 14 and 5. 0",
        "Tom has 8 coins, what is the sum? 0",
        "Add 3 to 9. 0",
    ]
    assert rows.labels[:6].tolist() == [0, 0, 0, 1, 1, 1]


def test_the_last_user_turn_is_what_counts(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello you"},
        {"role": "user", "content": "Add 2 and 2"},
    ]
    answered = [*turns, {"role": "assistant", "content": "4"}]
    rows = [{"messages": messages, "expert": "math"} for messages in (turns, answered) for _ in range(5)]
    assert set(read(write_rows(tmp_path / "r.jsonl", rows), ("math",)).texts) == {"Add 2 and 2"}


def test_a_fifth_of_every_experts_rows_is_held_out(tmp_path: Path) -> None:
    rows = read(write_rows(tmp_path / "rows.jsonl", labelled(5)[:-7]))
    train, held_out = rows.split(2, seed=0)
    assert sorted(train + held_out) == list(range(len(rows.texts)))
    counts = rows.counts(2)
    held = [sum(rows.labels[place] == label for place in held_out) for label in range(2)]
    assert held == [counts[0] // 5, counts[1] // 5]
    assert rows.split(2, seed=0) == (train, held_out)
    assert rows.split(2, seed=1) != (train, held_out)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"prompt": "Add.", "expert": "sql"},
            "its 'expert' is 'sql', and there is no such --adapter, only math",
        ),
        ({"prompt": "Add.", "expert": 1}, "its 'expert' is 1"),
        ({"prompt": "Add.", "expert": ["math"]}, "its 'expert' is ['math']"),
        ({"prompt": "Add."}, "it has no column 'expert', only prompt. Name the one"),
        ({"prompt": " ", "expert": "math"}, "it has no prompt"),
        ({"instruction": "", "expert": "math"}, "it has no prompt"),
        ({"messages": [], "expert": "math"}, "'messages' must be a list of messages"),
        (
            {
                "messages": [{"role": "user", "content": "a"}, {"role": "user", "content": ""}],
                "expert": "math",
            },
            "its last user turn is empty",
        ),
        ({"Frage": "?", "expert": "math"}, "of no known form"),
        (["math"], "a row must be an object"),
    ],
)
def test_a_row_that_can_not_be_used_is_named_by_its_line(tmp_path: Path, row: Any, says: str) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [*labelled(1), row])
    with pytest.raises(RowsError) as caught:
        read(path)
    assert str(caught.value).startswith("rows.jsonl:7: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "Add", "expert": "math"\n')
    with pytest.raises(RowsError, match=r"rows.jsonl:1: it is not JSON"):
        read(path)


@pytest.mark.parametrize(
    ("count", "says"),
    [(0, "--adapter story: no row has 'story' in 'expert'"), (4, "--adapter story: it has 4 rows")],
)
def test_an_adapter_without_enough_rows(tmp_path: Path, count: int, says: str) -> None:
    rows = [{"prompt": f"Add {n}.", "expert": "math"} for n in range(9)]
    rows += [{"prompt": f"Tell {n}.", "expert": "story"} for n in range(count)]
    with pytest.raises(RowsError, match=says):
        read(write_rows(tmp_path / "rows.jsonl", rows))
    enough = [*rows, *({"prompt": f"Sing {n}.", "expert": "story"} for n in range(5 - count))]
    assert read(write_rows(tmp_path / "rows.jsonl", enough)).counts(2) == [9, 5]


def test_files_that_are_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="there is no such file"):
        read(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(RowsError, match="there is not one row in it"):
        read(tmp_path / "empty.json")
