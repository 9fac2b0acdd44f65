"""Records of files, folders and hub data sets, as they stand there: nothing is copied, no cache is written for a file.

Parquet, Arrow and data sets are read by `pyarrow` and `datasets`. Lines of JSON and cells of CSV are read here, one by
one: the readers of `datasets` want one type per column, refuse a whole file for one bad line without naming it, take
`*` and `[` in a file's name for a pattern, and keep a copy of every file in a cache.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import datasets
import pyarrow as pa

from training.errors import RowsError
from training.rows.arrow import arrow_records, parquet_records, without_nulls

datasets.disable_progress_bars()  # training shows its own
csv.field_size_limit(2**31 - 1)

_COMPRESSED = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
KINDS = f"{', '.join(_KINDS[:-1])} or {_KINDS[-1]} (the text ones also with .gz, .zst or .bz2 behind)"
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_NOT_ROWS = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json"}
_HELD_BACK = re.compile(
    r"(?:^|[-_. /])(test|testing|valid|validation|val|dev|eval|evaluation)(?:[-_. /]|$)", re.I
)

Say = Callable[[str], None]


def say_nothing(text: str) -> None:
    """Tell nobody how a file was read."""


@dataclass(frozen=True)
class Broken:
    """A record that can't be read, and why."""

    reason: str


def is_file_name(name: str) -> bool:
    """Whether a name of data is that of a file or folder, by its ending or because it is there; else it is a hub id."""
    return bool(_kind(Path(name))) or Path(name).exists()


def hub_id(name: str) -> str:
    """Return the id in ID:CONFIG:SPLIT."""
    return name.partition(":")[0]


def records(file: str, say: Say = say_nothing) -> Iterator[tuple[str, Any]]:
    """Yield every record of a file, folder or hub data set as (where it stands, what it is).

    What can't be read as a record is yielded as `Broken`. `say` is told what was chosen on the way.

    Raises:
        RowsError: it is missing, of an unknown kind, or unreadable.

    """
    path = Path(file)
    if path.is_dir():
        yield from _folder(path, say)
    elif _kind(path) or path.exists():
        yield from _file(path, path.name, say)
    else:
        yield from _data_set(file)


def _kind(path: Path) -> str:
    """The ending that says how a file is read, without that of its compression; "" for an unknown one."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
        return suffixes[-1] if suffixes and suffixes[-1] in _KINDS[:5] else ""
    return suffixes[-1] if suffixes and suffixes[-1] in _KINDS else ""


def _file(path: Path, name: str, say: Say) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise RowsError(f"{path}: there is no such file.")
    kind = _kind(path)
    if not kind:
        raise RowsError(
            f"{path}: of an unknown kind. Give a {KINDS} file, a folder of them, or a hub id.{_hint(path)}"
        )
    if not path.stat().st_size:
        raise RowsError(f"{path}: there is not one row in it: it is empty.")
    try:
        with path.open("rb") as stream:
            if stream.read(40).startswith(b"version https://git-lfs"):
                raise RowsError(
                    f"{path}: it is a Git-LFS pointer, not the file itself. Fetch it with `git lfs pull`."
                )
        found = {
            ".csv": _cells,
            ".tsv": _cells,
            ".parquet": parquet_records,
            ".arrow": arrow_records,
        }.get(kind, _json)(path, say)
        for number, record in found:
            yield f"{name}:{number}", record
    except RowsError:
        raise
    except Exception as error:  # pyarrow, gzip, csv and json each raise their own
        first_line = (str(error).splitlines() or ["no message"])[0]
        raise RowsError(f"{path}: it can't be read as {kind[1:]} ({first_line}). Check the file.") from error


def _hint(path: Path) -> str:
    match path.suffix.lower():
        case ".xlsx" | ".xls" | ".ods":
            return " Save the sheet as CSV."
        case ".zip" | ".tar" | ".tgz" | ".7z":
            return " Unpack it."
        case ".txt" | "":
            return " If every line of it is a JSON object, give it the ending .jsonl."
        case _:
            return ""


# Text


def _text(path: Path, newline: str) -> io.TextIOWrapper:
    """Open as text, by its byte order mark or else as UTF-8; bytes that are none become lone surrogates."""
    with _bytes(path) as stream:
        head = stream.read(4096)
    encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in head:
        raise RowsError(
            f"{path}: it is not UTF-8; by its zero bytes it is UTF-16 without a mark. Convert it first: iconv -f "
            f"UTF-16LE -t UTF-8 {path.name} > converted{path.suffix}"
        )
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    return io.TextIOWrapper(_bytes(path), encoding=encoding, errors=errors, newline=newline)


def _bytes(path: Path) -> BinaryIO:
    compression = _COMPRESSED.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    return cast(
        "BinaryIO", io.BufferedReader(cast("Any", pa.input_stream(str(path), compression=compression)))
    )


def not_utf8(text: str) -> str | None:
    """Say what stands in a text instead of UTF-8, if something does."""
    for place, letter in enumerate(text):
        if "\udc80" <= letter <= "\udcff":
            return (
                f"it is not UTF-8: the byte 0x{ord(letter) - 0xDC00:02x} at character {place + 1}. If the file is "
                "Latin-1: iconv -f WINDOWS-1252 -t UTF-8"
            )
    return None


# JSON


def _json(path: Path, say: Say) -> Iterator[tuple[int, Any]]:
    with _text(path, newline="\n") as stream:  # only newlines split lines, not what Unicode calls one
        first, skipped = "", 0
        for first in stream:
            if first.strip():
                break
            skipped += 1
        if not first.strip():
            return
        if _is_array(first) or (_kind(path) == ".json" and not _is_whole(first)):
            yield from _whole(path, first + stream.read(), say)
            return
        if _kind(path) == ".json":
            rest = stream.readline()
            while rest and not rest.strip():
                rest = stream.readline()
            if not rest:
                yield from _whole(path, first, say)
                return
            say("read as one object a line")
            yield from _lines([first, rest], skipped + 1)
            yield from _lines(stream, skipped + 3)
            return
        yield from _lines([first], skipped + 1)
        yield from _lines(stream, skipped + 2)


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_array(line: str) -> bool:
    """Whether a file that begins so is one array of rows: not one conversation a line."""
    if not line.lstrip().startswith("["):
        return False
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return True  # it goes on in the next line
    return not held or not (
        all(isinstance(turn, str) for turn in held)
        or all(isinstance(turn, dict) and ({"role", "from"} & turn.keys()) for turn in held)
    )


def _lines(lines: Iterable[str], start: int) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=start):
        if not line.strip():
            continue
        if not line.isascii() and (said := not_utf8(line)):
            yield number, Broken(said)
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, Broken(f"it is not JSON ({error})")


def _whole(path: Path, text: str, say: Say) -> Iterator[tuple[int, Any]]:
    if not text.isascii() and (said := not_utf8(text)):
        raise RowsError(f"{path}: {said}")
    try:
        held = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowsError(
            f"{path}: it can't be read as JSON ({error}). A .json file is a list of objects, or one object a line."
        ) from error
    if isinstance(held, dict):
        lists = [
            key
            for key, value in held.items()
            if isinstance(value, list) and value and isinstance(value[0], dict)
        ]
        if len(lists) != 1 or {"messages", "conversations"} & held.keys():
            raise RowsError(
                f"{path}: it must hold a list of rows, this is one object with {', '.join(map(repr, held))}. Write a "
                "list, or one object a line; in pandas: df.to_json(FILE, orient='records', lines=True)."
            )
        say(f"its rows are the list {lists[0]!r}")
        held = held[lists[0]]
    elif _kind(path) != ".json":
        say("read as one JSON array")
    if not isinstance(held, list):
        raise RowsError(f"{path}: it must hold a list of rows, this is {type(held).__name__}.")
    yield from enumerate(held, start=1)


# CSV


def _cells(path: Path, say: Say) -> Iterator[tuple[int, Any]]:
    """Every cell is text, as it stands there: a number's or a date's spelling is part of an answer."""
    with _text(path, newline="") as stream:
        sample = stream.read(1 << 16)
    usual = "\t" if _kind(path) == ".tsv" else ","
    separator = _separator(sample, usual)
    if separator != usual:
        say(f"its columns are separated by {_SEPARATORS[separator]}")
    with _text(path, newline="") as stream:
        reader = csv.reader(stream, delimiter=separator, strict=True)
        try:
            names = [name.strip() for name in next(reader, [])]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise RowsError(
                    f"{path}: two of its columns are named {twice[0]!r}. Name them apart in the first line."
                )
            for number, cells in enumerate((cells for cells in reader if cells), start=1):
                if len(cells) != len(names):
                    yield (
                        number,
                        Broken(f"it has {len(cells)} cells, the first line {len(names)}: a cell that holds a separator "
                               "or a newline must stand in double quotes"),
                    )  # fmt: skip
                    continue
                said = next(filter(None, map(not_utf8, (cell for cell in cells if not cell.isascii()))), None)
                yield number, Broken(said) if said else dict(zip(names, cells, strict=True))
        except csv.Error as error:
            raise RowsError(
                f"{path}: it can't be read as csv (line {reader.line_num}: {error}). A double quote inside a cell is "
                "written twice."
            ) from error


def _separator(sample: str, usual: str) -> str:
    def columns(separator: str) -> tuple[bool, int]:
        reader = csv.reader(io.StringIO(sample, newline=""), delimiter=separator)
        names, first = next(reader, []), next(reader, [])
        return len(names) > 1 and (len(names) == len(first) or not first), len(names)

    # The usual one first: of two that fit equally it is taken.
    fits = {separator: columns(separator) for separator in dict.fromkeys((usual, *_SEPARATORS))}
    if fits[usual][0]:
        return usual
    return max(fits, key=fits.__getitem__)


# Folders and data sets


def _folder(path: Path, say: Say) -> Iterator[tuple[str, Any]]:
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        if splits != ["train"]:
            chosen = f"{path}/{splits[0]}" if splits else "one of them"
            raise RowsError(
                f"{path}: it holds the splits {', '.join(splits)}. Give the one to train on, e.g. {chosen}"
            )
        path = path / "train"
    if (path / "state.json").is_file():
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:  # pyarrow and datasets each raise their own
            raise RowsError(
                f"{path}: it can't be read as a saved data set ({_first_line(error)})."
            ) from error
        say("a data set that save_to_disk wrote")
        for number, record in enumerate(saved, start=1):
            yield f"{path.name}:{number}", without_nulls(record)
        return
    files = sorted(
        each.relative_to(path)
        for each in path.rglob("*")
        if each.is_file() and not any(part.startswith((".", "_")) for part in each.relative_to(path).parts)
    )
    files = [each for each in files if _kind(each) and each.name not in _NOT_ROWS]
    if not files:
        raise RowsError(f"{path}: of an unknown kind: this folder holds no {KINDS} file.")
    held_back = [each for each in files if _HELD_BACK.search(str(each.with_suffix("")))]
    taken = [each for each in files if each not in held_back]
    if held_back and taken:
        said = ", ".join(str(each) for each in held_back[:5]) + (", ..." if len(held_back) > 5 else "")
        say(f"left out, as their names say that they are to test with: {said}. Name them to train on them")
    else:
        taken = files
    say(f"{len(taken)} files")
    for each in taken:
        yield from _file(path / each, str(each), say)


def _data_set(name: str) -> Iterator[tuple[str, Any]]:
    """A data set on the hub or, with a configuration or a split, of a folder that is laid out as one."""
    identity, config, split = (*name.split(":", 2), "", "")[:3]
    folder = Path(identity).is_dir()
    try:
        loaded = datasets.load_dataset(identity, config or None, split=split or "train", streaming=folder)
    except Exception as error:  # the hub's client raises many kinds
        what = (
            "a data set of this form"
            if folder
            else "neither a file here nor a data set that could be loaded from the hub"
        )
        raise RowsError(
            f"{name}: {what} ({type(error).__name__}: {_first_line(error)}). Check the path. A configuration and a "
            f"split are written {identity}:CONFIG:SPLIT, either may be empty."
        ) from error
    said = Path(identity).name if folder else identity.rpartition("/")[2]
    for number, record in enumerate(loaded, start=1):
        yield f"{said}:{number}", without_nulls(record)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or "no message"
