"""Read rows: any of three forms, from any file or hub id that `datasets` reads; say which can't be used."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from training.errors import RowsError

Message = dict[str, str]

datasets.disable_progress_bars()  # training shows its own

_FORMS = "instruction/input/output, prompt/completion, or messages"
_ROLES = ("system", "user", "assistant")
_KINDS = {".jsonl": "text", ".ndjson": "text", ".json": "text", ".csv": "csv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Row:
    """One training example: a conversation up to the answer, and the answer."""

    origin: str
    prompt: tuple[Message, ...]
    completion: str
    source: str | None = None


@dataclass(frozen=True)
class Unusable:
    """A row that can't be used, and why."""

    origin: str
    reason: str


def read_rows(files: tuple[str, ...]) -> tuple[list[Row], list[Unusable]]:
    """Read every row of every file, in order; none is dropped without being listed.

    Raises:
        RowsError: a file is missing, of an unknown kind, unreadable or empty.

    """
    rows: list[Row] = []
    unusable: list[Unusable] = []
    for file in files:
        count = len(rows) + len(unusable)
        for origin, record in records(file):
            if isinstance(record, Unusable):
                unusable.append(record)
                continue
            parsed = parse_row(origin, record)
            if isinstance(parsed, Row):
                rows.append(parsed)
            else:
                unusable.append(parsed)
        if len(rows) + len(unusable) == count:
            raise RowsError(f"{file}: there is not one row in it.")
    return rows, unusable


def is_file_name(name: str) -> bool:
    """Whether a name of data is that of a file, by its ending; else it is a hub id."""
    return Path(name).suffix in _KINDS


def parse_row(origin: str, record: Any) -> Row | Unusable:
    """Make a row of one record in any of the three forms, or say why it can't be one."""
    row = parse_prompt(origin, record)
    if isinstance(row, Row) and not row.completion.strip():
        asked_last = record.get("messages") is not None and record["messages"][-1]["role"] != "assistant"
        why = ": the last message is not the assistant's" if asked_last else ""
        return Unusable(origin, f"it has no response{why}")
    return row


def parse_prompt(origin: str, record: Any) -> Row | Unusable:
    """As `parse_row`, of a record that may lack the response; the completion is then empty."""
    if not isinstance(record, dict):
        return Unusable(origin, f"a row must be an object, this is {type(record).__name__}")
    source = record.get("source")
    source = source if isinstance(source, str) else None
    try:
        if record.get("messages") is not None:
            prompt, completion = _of_messages(record["messages"])
        elif record.get("prompt") is not None:
            prompt, completion = _of_prompt(record["prompt"], record.get("completion"))
        elif record.get("instruction") is not None:
            prompt, completion = _of_alpaca(record)
        else:
            return Unusable(origin, f"its keys {sorted(record)} are none of the forms {_FORMS}")
    except _WrongRow as wrong:
        return Unusable(origin, str(wrong))
    if not any(message["role"] == "user" and message["content"].strip() for message in prompt):
        return Unusable(origin, "it has no prompt")
    return Row(origin, tuple(prompt), completion, source)


class _WrongRow(Exception):
    """Why one record is no row."""


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _WrongRow(f"{name!r} must be text, this is {type(value).__name__}")
    return value


def _of_alpaca(record: dict[str, Any]) -> tuple[list[Message], str]:
    instruction, extra = _text(record["instruction"], "instruction"), _text(record.get("input"), "input")
    content = f"{instruction}\n{extra}" if extra else instruction
    return [{"role": "user", "content": content}], _text(record.get("output"), "output")


def _of_prompt(prompt: Any, completion: Any) -> tuple[list[Message], str]:
    messages = _messages(prompt, "prompt") if isinstance(prompt, list) else None
    if messages is None:
        messages = [{"role": "user", "content": _text(prompt, "prompt")}]
    if isinstance(completion, list):
        answer = _messages(completion, "completion")
        if len(answer) != 1 or answer[0]["role"] != "assistant":
            raise _WrongRow("'completion' must be one assistant message")
        return messages, answer[0]["content"]
    return messages, _text(completion, "completion")


def _of_messages(messages: Any) -> tuple[list[Message], str]:
    if not isinstance(messages, list) or not messages:
        raise _WrongRow("'messages' must be a list of messages")
    parsed = _messages(messages, "messages")
    if parsed[-1]["role"] != "assistant":
        return parsed, ""
    return parsed[:-1], parsed[-1]["content"]


def _messages(messages: list[Any], name: str) -> list[Message]:
    parsed = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise _WrongRow(f"{name!r} must hold messages with a role of {', '.join(_ROLES)}")
        parsed.append({"role": message["role"], "content": _text(message.get("content"), f"{name}.content")})
    return parsed


def records(file: str) -> Iterator[tuple[str, Any]]:
    """Yield every record of a file or hub data set as (where it stands, what it is).

    A line that is no JSON is yielded as `Unusable`.

    Raises:
        RowsError: it is missing, of an unknown kind, or unreadable.

    """
    path = Path(file)
    if path.suffix in (".jsonl", ".ndjson") and path.is_file():
        yield from _lines_of_json(path)
        return
    if path.suffix == ".json" and path.is_file():
        yield from _array_of_json(path)
        return
    for number, record in enumerate(_load(file, path), start=1):
        yield f"{path.name}:{number}", record


def _lines_of_json(path: Path) -> Iterator[tuple[str, Any]]:
    # Read as lines of text, parsed one by one: the JSON reader of `datasets` wants one type per column, and
    # would refuse a whole file for one row of a wrong type, without its line number.
    for number, line in enumerate(_load_with("text", path, encoding="utf-8-sig")["text"], start=1):
        if not line.strip():
            continue
        origin = f"{path.name}:{number}"
        try:
            yield origin, json.loads(line)
        except ValueError as error:
            yield origin, Unusable(origin, f"it is not JSON ({error})")


def _array_of_json(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise RowsError(
            f"{path}: it can't be read as JSON ({error}). One object a line is a .jsonl file."
        ) from error
    if not isinstance(records, list):
        raise RowsError(f"{path}: it must hold a list of rows, this is {type(records).__name__}.")
    for number, record in enumerate(records, start=1):
        yield f"{path.name}:{number}", record


def _load(file: str, path: Path) -> datasets.Dataset:
    if path.suffix in _KINDS:
        if not path.is_file():
            raise RowsError(f"{file}: there is no such file.")
        options = _csv_options(path) if path.suffix == ".csv" else {}
        return _load_with(_KINDS[path.suffix], path, **options)
    if path.exists():
        raise RowsError(
            f"{file}: of an unknown kind; give a .jsonl, .json, .csv or .parquet file, or a hub id."
        )
    try:
        return datasets.load_dataset(file, split="train")
    except Exception as error:  # the hub's client raises many kinds
        raise RowsError(
            f"{file}: neither a file here nor a data set that could be loaded from the hub ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}). Check the path."
        ) from error


def _csv_options(path: Path) -> dict[str, Any]:
    # Every cell is text, as it stands there: pandas would make numbers of answers, and nothing of "NA".
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        names = next(csv.reader(stream), [])
    features = datasets.Features({name: datasets.Value("string") for name in names})
    return {"features": features, "keep_default_na": False, "encoding": "utf-8-sig"}


def _load_with(kind: str, path: Path, **options: Any) -> datasets.Dataset:
    try:
        return datasets.load_dataset(kind, data_files=str(path), split="train", **options)
    except Exception as error:  # pyarrow, pandas and datasets each raise their own
        if not path.stat().st_size or "corresponds to no data" in str(error):
            raise RowsError(f"{path}: there is not one row in it.") from error
        cause = error.__cause__ or error
        first_line = (str(cause).splitlines() or ["no message"])[0]
        raise RowsError(f"{path}: it can't be read as {kind} ({first_line}). Check the file.") from error
