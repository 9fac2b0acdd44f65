"""Files as people have them: compressed, separated otherwise, in folders, with names that look like patterns."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from training.errors import RowsError
from training.rows.files import is_file_name
from training.rows.reading import FileRead, HowToRead, read_rows

ROWS = [{"prompt": "Größe; a, b", "completion": '1.50 "x"\nNA'}, {"prompt": "p2", "completion": "null"}]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(separator: str) -> str:
    return (
        f"prompt{separator}completion\n"
        + '"Größe; a, b"'
        + separator
        + '"1.50 ""x""\nNA"'
        + f"\np2{separator}null\n"
    )


def arrow(path: Path, new: Callable[[Any, pa.Schema], Any]) -> None:
    held = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(path), "wb") as stream, new(stream, held.schema) as writer:
        writer.write_table(held)


def write(folder: Path, name: str) -> Path:
    path = folder / name
    match name:
        case "rows.jsonl.gz":
            path.write_bytes(gzip.compress(lines(ROWS).encode()))
        case "rows.jsonl.zst" | "rows.csv.zst" | "rows.json.bz2":
            text = table(",") if "csv" in name else json.dumps(ROWS) if "json.bz2" in name else lines(ROWS)
            with pa.CompressedOutputStream(str(path), "bz2" if "bz2" in name else "zstd") as stream:
                stream.write(text.encode())
        case "rows.tsv":
            path.write_text(table("\t"))
        case "semicolons.csv":
            path.write_text(table(";"))
        case "mark.csv":
            path.write_bytes(b"\xef\xbb\xbf" + table(",").encode())
        case "utf16.csv":
            path.write_bytes(table(",").encode("utf-16"))
        case "utf16.jsonl":
            path.write_bytes(lines(ROWS).encode("utf-16"))
        case "index.csv":
            datasets.Dataset.from_list(ROWS).to_pandas().to_csv(path)
        case "array.jsonl":
            path.write_text(json.dumps(ROWS, indent=2))
        case "array-in-one-line.jsonl":
            path.write_text(json.dumps(ROWS))
        case "lines.json":
            path.write_text(lines(ROWS))
        case "wrapped.json":
            path.write_text(json.dumps({"version": 1, "data": ROWS}))
        case "stream.arrow":
            arrow(path, pa.ipc.new_stream)
        case "file.arrow":
            arrow(path, pa.ipc.new_file)
        case "saved":
            datasets.Dataset.from_list(ROWS).save_to_disk(path)
        case "splits":
            datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(path)
        case "many":
            path.mkdir()
            (path / "README.md").write_text("words")
            (path / "a.jsonl").write_text(lines(ROWS[:1]))
            (path / "b.csv").write_text(table(",").partition("\n")[0] + "\np2,null\n")
        case _:
            path.write_text(lines(ROWS))
    return path


NAMES = [
    *(
        "rows.jsonl",
        "rows.jsonl.gz",
        "rows.jsonl.zst",
        "rows.csv.zst",
        "rows.json.bz2",
        "rows.tsv",
        "semicolons.csv",
    ),
    *(
        "mark.csv",
        "utf16.csv",
        "utf16.jsonl",
        "index.csv",
        "array.jsonl",
        "array-in-one-line.jsonl",
        "lines.json",
    ),
    *(
        "wrapped.json",
        "stream.arrow",
        "file.arrow",
        "saved",
        "splits",
        "many",
        "star*.jsonl",
        "with [v2].jsonl",
    ),
    "what?.jsonl",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_read_as_it_is(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[FileRead] = []
    folder = tmp_path / "data [v1]"
    folder.mkdir()
    (folder / "star2.jsonl").write_text(lines([{"prompt": "the neighbour's", "completion": "no"}]))
    path = write(folder, name)
    rows, unusable = read_rows((str(path),), told=told)
    assert unusable == []
    assert [(row.prompt[0]["content"], row.completion) for row in rows] == [
        tuple(row.values()) for row in ROWS
    ]
    assert "prompt/completion" in told[0].lines()[0]
    assert is_file_name(str(path))
    assert not list(Path(datasets.config.HF_DATASETS_CACHE).rglob("*.arrow"))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.tsv", "stream.arrow"])
def test_new_content_at_the_same_path_and_time_is_new_content(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name)
    before = path.stat()
    assert read_rows((str(path),))[0][1].completion == "null"
    path.write_bytes(path.read_bytes().replace(b"null", b"full"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read_rows((str(path),))[0][1].completion == "full"


def test_one_bad_line_or_cell_is_one_bad_row(tmp_path: Path) -> None:
    jsonl = tmp_path / "a.jsonl"
    jsonl.write_bytes(
        b'{"prompt": "p", "completion": "\\ud83d"}\n{"prompt": "\xfc", "completion": "c"}\n'
        b'{"prompt": "p", "completion": "c"}\n'
    )
    csv = tmp_path / "b.csv"
    csv.write_bytes(b"prompt,completion\np,a, b\n\xfc,c\np,c\n")
    rows, unusable = read_rows((str(jsonl), str(csv)))
    assert [row.origin for row in rows] == ["a.jsonl:3", "b.csv:3"]
    assert [row.origin for row in unusable] == ["a.jsonl:1", "a.jsonl:2", "b.csv:1", "b.csv:2"]
    for row, reason in zip(
        unusable, ("U+D83D", "byte 0xfc", "3 cells, the first line 2", "byte 0xfc"), strict=True
    ):
        assert reason in row.reason


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", '{"prompt": "p"}'.encode("utf-16-le"), "UTF-16 without a mark. Convert it first: iconv"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("a.csv", b"prompt,prompt\na,b\n", "two of its columns are named 'prompt'"),
        ("a.csv", b'prompt,completion\n"a,b\n', "can't be read as csv"),
        ("a.json", b'{"prompt": {"0": "p"}, "completion": {"0": "c"}}', "orient='records'"),
        ("a.jsonl.gz", b"not gzip", "can't be read as jsonl"),
        ("a.arrow", b"not arrow", "can't be read as arrow"),
        ("a.zip", b"PK", "Unpack it"),
        ("a.txt", b"words", "of an unknown kind"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "there is not one row in it"),
    ],
)
def test_what_can_not_be_read_says_what_to_do(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RowsError) as caught:
        read_rows((str(tmp_path / name),))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_keeps_its_test_files_out_and_says_so(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.jsonl", "test.jsonl", "latest.jsonl"):
        (tmp_path / name).write_text(lines([{"prompt": name, "completion": "c"}]))
    told: list[FileRead] = []
    rows, _ = read_rows((str(tmp_path),), told=told)
    assert [row.origin for row in rows] == ["latest.jsonl:1", "train-00000-of-00001.jsonl:1"]
    assert "to test with: test.jsonl" in told[0].lines()[0]


def test_a_split_of_saved_data_is_asked_for(tmp_path: Path) -> None:
    both = {name: datasets.Dataset.from_list(ROWS) for name in ("train_sft", "test_sft")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "two")
    with pytest.raises(RowsError, match=r"the splits train_sft, test_sft\. Give the one .*two/train_sft"):
        read_rows((str(tmp_path / "two"),))
    assert len(read_rows((str(tmp_path / "two" / "train_sft"),))[0]) == 2


def test_a_configuration_and_a_split(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "main").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train_sft\n    path: main/a.jsonl\n---\n"
    )
    (folder / "main" / "a.jsonl").write_text(lines(ROWS))
    rows, _ = read_rows((f"{folder}:main:train_sft",))
    assert [row.completion for row in rows] == [row["completion"] for row in ROWS]
    assert rows[0].origin == "set:1"
    with pytest.raises(RowsError, match=r"train_sft.*:CONFIG:SPLIT"):
        read_rows((f"{folder}:main:nothere",))


def test_a_hub_id_is_asked_for_its_configuration_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(name: str, config: str | None, split: str, streaming: bool) -> list[dict[str, str]]:
        asked.append((name, config, split))
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    for name in ("openai/gsm8k:main", "a/b::train_sft", "a/b"):
        assert len(read_rows((name,))[0]) == 2
    assert asked == [("openai/gsm8k", "main", "train"), ("a/b", None, "train_sft"), ("a/b", None, "train")]


def test_nulls_that_a_column_of_structs_adds_are_not_there(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "tool_calls": None}]
    called = [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "a",
            "tool_calls": [
                {"function": {"name": "f", "arguments": {"x": "1"}}},
                {"function": {"name": "g", "arguments": {"y": "2"}}},
            ],
        },
    ]
    datasets.Dataset.from_list([{"messages": turns}, {"messages": called}]).to_parquet(tmp_path / "t.parquet")
    rows, unusable = read_rows((str(tmp_path / "t.parquet"),))
    assert unusable == []
    assert rows[0].answer is None
    assert rows[1].answer is not None
    assert [call["function"]["arguments"] for call in rows[1].answer["tool_calls"]] == [
        {"x": "1"},
        {"y": "2"},
    ]


def test_a_mapping_that_names_no_column_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "rows.jsonl")
    with pytest.raises(
        RowsError, match=r"data\.columns: no row has a column 'frage'\. The columns are prompt"
    ):
        read_rows((str(path),), HowToRead(columns={"prompt": ("frage",), "answer": ("completion",)}))
