"""Records of Parquet and Arrow files, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def parquet_records(path: Path, say: object) -> Iterator[tuple[int, Any]]:
    """Yield a Parquet file's records with their numbers."""
    with pq.ParquetFile(path) as table:
        yield from _batches(table.iter_batches(batch_size=1024))


def arrow_records(path: Path, say: object) -> Iterator[tuple[int, Any]]:
    """Yield an Arrow file's records with their numbers, of its stream or file form."""
    with pa.memory_map(str(path)) as stream:
        try:
            batches: Any = pa.ipc.open_stream(stream)
        except pa.ArrowInvalid:  # the other of Arrow's two forms
            table = pa.ipc.open_file(stream)
            batches = (table.get_batch(place) for place in range(table.num_record_batches))
        yield from _batches(batches)


def _batches(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, Any]]:
    number = 0
    for batch in batches:
        for record in batch.to_pylist():
            number += 1
            yield number, {name: _without_nulls(value) for name, value in record.items()}


def _without_nulls(value: Any) -> Any:
    """Drop the fields that a column of structs has only because another row has them."""
    if isinstance(value, dict):
        return {name: _without_nulls(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def without_nulls(record: Any) -> dict[str, Any]:
    """Return a record without the nulls that stand in its structs."""
    return {column: _without_nulls(value) for column, value in record.items()}
