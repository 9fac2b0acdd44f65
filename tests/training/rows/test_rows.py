"""Every form, every kind of file, and every row that can't be used by its line and the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.errors import RowsError
from training.rows.files import KINDS
from training.rows.reading import Row, Unusable, parse_row, read_rows

USER = {"role": "user", "content": "Add 2 and 3."}
ANSWER = {"role": "assistant", "content": "5"}
ALPACA = {"instruction": "Add.", "input": "2 and 3", "output": "5", "source": "sums", "answer": "5"}


def written(path: Path, text: str) -> tuple[str]:
    path.write_text(text, encoding="utf-8", newline="")
    return (str(path),)


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.mark.parametrize(
    ("record", "prompt", "completion"),
    [
        (ALPACA, ({"role": "user", "content": "Add.\n2 and 3"},), "5"),
        ({"instruction": "Hi", "input": "", "output": "Yo"}, ({"role": "user", "content": "Hi"},), "Yo"),
        ({"instruction": "Hi", "output": "Yo"}, ({"role": "user", "content": "Hi"},), "Yo"),
        ({"prompt": "Add 2 and 3.", "completion": "5"}, (USER,), "5"),
        ({"prompt": [USER], "completion": [ANSWER]}, (USER,), "5"),
        ({"prompt": [{"role": "system", "content": "s"}, USER], "completion": "5"},
         ({"role": "system", "content": "s"}, USER), "5"),
        ({"messages": [USER, ANSWER]}, (USER,), "5"),
        ({"messages": [USER, ANSWER, USER, {"role": "assistant", "content": "five"}]}, (USER, ANSWER, USER), "five"),
        ({"messages": [{**USER, "name": "me"}, ANSWER], "prompt": None}, ({**USER, "name": "me"},), "5"),
    ],
)  # fmt: skip
def test_every_form_becomes_the_same_kind_of_row(record: Any, prompt: Any, completion: str) -> None:
    found = parse_row("x:1", record)
    assert found == Row("x:1", prompt, completion, record.get("source"))


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": "Add.", "output": ""}, "it has no response"),
        ({"instruction": "Add.", "output": " \n"}, "it has no response"),
        ({"instruction": "Add."}, "it has no response"),
        ({"prompt": "Add.", "completion": None}, "it has no response"),
        ({"instruction": " ", "output": "5"}, "it has no prompt"),
        ({"messages": [ANSWER]}, "it has no prompt"),
        ({"prompt": [{"role": "system", "content": "s"}], "completion": "5"}, "it has no prompt"),
        ({"instruction": "Add.", "output": 5}, "'output' must be text, this is int"),
        ({"instruction": ["Add."], "output": "5"}, "'instruction' must be text, this is list"),
        ({"prompt": 7, "completion": "5"}, "'prompt' must be text, this is int"),
        ({"messages": "hello"}, "'messages' must be a list of messages"),
        ({"messages": []}, "'messages' must be a list of messages"),
        ({"messages": [USER]}, "the last message is not the assistant's"),
        ({"messages": [{"content": "hi"}, ANSWER]}, "must hold messages with a role of system, developer, user"),
        ({"messages": [{"role": "waiter", "content": "hi"}, ANSWER]}, "this has 'waiter'"),
        ({"messages": [USER, {"role": "assistant", "content": [1]}]}, "'messages.content' must be text, this is list"),
        ({"prompt": [USER], "completion": [USER]}, "'completion' must be one assistant message"),
        ({"prompt": [USER], "completion": [ANSWER, ANSWER]}, "'completion' must be one assistant message"),
        ({"Frage": "Q", "Antwort": "A"}, "--set 'data.columns={prompt: Frage, answer: Antwort}'"),
        (["a"], "a row must be an object, this is list"),
        (None, "a row must be an object, this is NoneType"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_says_why(record: Any, reason: str) -> None:
    found = parse_row("x:1", record)
    assert isinstance(found, Unusable)
    assert found.origin == "x:1"
    assert reason in found.reason


def test_jsonl_names_each_bad_line(tmp_path: Path) -> None:
    text = (
        lines(ALPACA)  # 1
        + "\n   \n"  # 2, 3
        + "{not json\n"  # 4
        + lines({"instruction": "Add.", "output": ""}, {"messages": [USER]}, 3)  # 5, 6, 7
        + lines({"instruction": "one type here", "output": {"and": "another there"}})  # 8
        + json.dumps({"prompt": "p", "completion": "c"})  # 9, no newline at the end
    )
    rows, unusable = read_rows(written(tmp_path / "mine.jsonl", text))
    assert [row.origin for row in rows] == ["mine.jsonl:1", "mine.jsonl:9"]
    assert [row.origin for row in unusable] == [f"mine.jsonl:{number}" for number in (4, 5, 6, 7, 8)]
    reasons = [row.reason for row in unusable]
    assert reasons[0].startswith("it is not JSON (")
    assert reasons[1] == "it has no response"
    assert "the last message" in reasons[2]
    assert reasons[3] == "a row must be an object, this is int"
    assert reasons[4] == "'output' must be text, this is dict"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_only_newlines_split_lines(tmp_path: Path, separator: str) -> None:
    odd = {"instruction": f"one{separator}two", "output": "three"}
    text = json.dumps(odd, ensure_ascii=False).replace(json.dumps(separator)[1:-1], separator)
    if ord(separator) < 32:  # JSON wants control characters escaped: such a line is bad, and it is one line
        rows, unusable = read_rows(written(tmp_path / "odd.jsonl", text + "\n" + lines(ALPACA)))
        assert [row.origin for row in unusable] == ["odd.jsonl:1"]
        assert [row.origin for row in rows] == ["odd.jsonl:2"]
        return
    rows, unusable = read_rows(written(tmp_path / "odd.jsonl", text + "\n" + lines(ALPACA)))
    assert unusable == []
    assert [row.origin for row in rows] == ["odd.jsonl:1", "odd.jsonl:2"]
    assert rows[0].prompt[0]["content"] == f"one{separator}two"


def test_windows_line_ends_and_mark(tmp_path: Path) -> None:
    text = "\ufeff" + lines(ALPACA, ALPACA).replace("\n", "\r\n")
    rows, unusable = read_rows(written(tmp_path / "windows.jsonl", text))
    assert unusable == []
    assert [row.origin for row in rows] == ["windows.jsonl:1", "windows.jsonl:2"]


def test_json_csv_and_parquet(tmp_path: Path) -> None:
    records = [ALPACA, ALPACA | {"input": "", "output": "six"}]
    (tmp_path / "a.json").write_text(json.dumps(records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "b.parquet")
    datasets.Dataset.from_list(records).to_csv(tmp_path / "c.csv", index=False)
    (tmp_path / "d.jsonl").write_text(lines(*records))
    for name in ("a.json", "b.parquet", "c.csv", "d.jsonl"):
        rows, unusable = read_rows((str(tmp_path / name),))
        assert unusable == [], name
        assert [row.origin for row in rows] == [f"{name}:1", f"{name}:2"]
        assert [row.prompt[0]["content"] for row in rows] == ["Add.\n2 and 3", "Add."], name
        assert [row.completion for row in rows] == ["5", "six"], name
        assert [row.source for row in rows] == ["sums", "sums"]


def test_a_csv_holds_text_whatever_it_looks_like(tmp_path: Path) -> None:
    """A column of numbers, `NA` and `null` are answers, and 1.50 is not 1.5."""
    text = 'instruction,output\nAdd.,5\n"Say, please",NA\nPrice?,1.50\nNothing?,null\nEmpty?,\n'
    rows, unusable = read_rows(written(tmp_path / "n.csv", text))
    assert [row.completion for row in rows] == ["5", "NA", "1.50", "null"]
    assert rows[1].prompt[0]["content"] == "Say, please"
    assert unusable == [Unusable("n.csv:5", "it has no response")]


def test_conversations_in_parquet_and_json(tmp_path: Path) -> None:
    records = [{"messages": [USER, ANSWER]}, {"messages": [USER]}]
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "talk.parquet")
    (tmp_path / "talk.json").write_text(json.dumps(records))
    for name in ("talk.parquet", "talk.json"):
        rows, unusable = read_rows((str(tmp_path / name),))
        assert rows == [Row(f"{name}:1", (USER,), "5")]
        assert [row.origin for row in unusable] == [f"{name}:2"]


def test_files_are_read_in_their_order(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("z.jsonl", "a.jsonl")]
    for file in files:
        file.write_text(lines(ALPACA))
    rows, _ = read_rows(tuple(str(file) for file in files))
    assert [row.origin for row in rows] == ["z.jsonl:1", "a.jsonl:1"]


def refusal(file: Path | str) -> str:
    with pytest.raises(RowsError) as caught:
        read_rows((str(file),))
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["no.jsonl", "no.ndjson", "no.json", "no.csv", "no.parquet"])
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path / name) == f"{tmp_path / name}: there is no such file."


def test_an_unknown_kind_names_those_known(tmp_path: Path) -> None:
    (tmp_path / "rows.xlsx").write_text("x")
    message = refusal(tmp_path / "rows.xlsx")
    assert "Save the sheet as CSV" in message
    assert "unknown kind" in message
    assert KINDS in message
    assert "unknown kind" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.jsonl", ""),
        ("e.jsonl", "\n\n"),
        ("e.json", "[]"),
        ("e.csv", ""),
        ("e.csv", "instruction,output\n"),
    ],
)
def test_an_empty_file_says_so(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    message = refusal(tmp_path / name)
    assert str(tmp_path / name) in message
    assert "there is not one row in it" in message


def test_an_unreadable_file_says_as_what(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    assert "broken.parquet: it can't be read as parquet (" in refusal(tmp_path / "broken.parquet")
    (tmp_path / "latin.jsonl").write_bytes('{"instruction": "Grüße", "output": "x"}'.encode("latin-1"))
    rows, unusable = read_rows((str(tmp_path / "latin.jsonl"),))
    assert (rows, [row.origin for row in unusable]) == ([], ["latin.jsonl:1"])
    assert "it is not UTF-8: the byte 0xfc at character 20" in unusable[0].reason


def test_an_unreachable_hub_id_is_a_sentence() -> None:
    message = refusal("nobody/no-data-set-of-this-name")
    assert "nobody/no-data-set-of-this-name: neither a file here nor a data set" in message
    assert "Check the path." in message


def test_a_json_array_of_mixed_types_names_each_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps([ALPACA, {"instruction": 7, "output": "x"}, "text", ALPACA]))
    rows, unusable = read_rows((str(path),))
    assert [row.origin for row in rows] == ["mixed.json:1", "mixed.json:4"]
    assert [(row.origin, row.reason) for row in unusable] == [
        ("mixed.json:2", "'instruction' must be text, this is int"),
        ("mixed.json:3", "a row must be an object, this is str"),
    ]


@pytest.mark.parametrize(
    ("content", "says"), [('{"a": 1}', "must hold a list"), ("[{", "can't be read as JSON")]
)
def test_a_json_file_that_is_no_array(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(RowsError, match=says):
        read_rows((str(path),))
