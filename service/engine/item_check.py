"""Long lists of a request are checked item by item, so that no list of mistakes is explained as a whole.

The engine's request models report every mistake of a body, once for each form that an item could have: a thousand
empty items (3 kB) took it 8 seconds and 1.6 GB, and nobody else was answered meanwhile. Here the first few mistakes
are enough, and between the items others have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter

MAX_FIELDS = 256
"""ours: the engine's largest request model has about 90."""
_FEW_ITEMS = 32  # ours: what is explained as a whole in some milliseconds
_MISTAKES = 3
_PER_TURN = 8


def many_items(value: Any) -> bool:
    """Return whether the lists in a value hold more items than may be explained as a whole."""
    waiting, items = [value], 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            items += len(one)
            waiting += one
        elif isinstance(one, dict):
            waiting += [inner for inner in one.values() if isinstance(inner, list | dict)]
        if items > _FEW_ITEMS:
            return True
    return False


def single_items(values: list[Any]) -> Iterator[Any]:
    """Yield each item of a list with one item in each of its own lists; all items of those in turn."""
    for value in values:
        yield _shortened(value)
        if isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, list) and inner:
                    rest = _shortened(value)
                    for number, item in enumerate(single_items(inner)):
                        if number:  # the first stood in the one above
                            yield rest | {name: [item]}
        elif isinstance(value, list):
            for number, item in enumerate(single_items(value)):
                if number:
                    yield [item]


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: [_shortened(inner[0])] if isinstance(inner, list) and inner else inner
            for name, inner in value.items()
        }
    return [_shortened(value[0])] if isinstance(value, list) and value else value


async def check_items(
    whole: TypeAdapter[Any], fields: Mapping[str, TypeAdapter[Any]], body: Mapping[str, Any]
) -> Exception | None:
    """Return what `whole`, the model of a body, says of the first items that `fields` refuse; None: of nothing.

    A body in which fewer than three items are refused is left to the engine, which explains those as always.
    """
    checked = 0
    for name, adapter in fields.items():
        values = body.get(name)
        if not isinstance(values, list) or not many_items(values):
            continue
        refused: list[Any] = []
        for item in single_items(values):
            try:
                adapter.validate_python([item])
            except Exception:  # the model's own checks may raise anything
                refused.append(item)
            if len(refused) == _MISTAKES:
                break
            checked += 1
            if checked % _PER_TURN == 0:
                await asyncio.sleep(0)
        if len(refused) < _MISTAKES:
            continue
        try:  # what reads the whole body may take what a field alone does not
            whole.validate_python({**body, name: refused[:1]})
        except Exception as error:
            return error
    return None
