"""Of a long list of mistakes the first few are explained, and others have their turn meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.engine.item_check import check_items, many_items, single_items


class Text(BaseModel):
    type: Literal["text"]
    text: str


class Call(BaseModel):
    type: Literal["call"]
    id: str
    output: list[Text]


class Message(BaseModel):
    role: str
    content: str | list[Text | Call]


class Request(BaseModel):
    messages: list[Message]


WHOLE = TypeAdapter(Request)
FIELDS = {"messages": TypeAdapter(list[Message])}
GOOD = {"role": "user", "content": "a"}
CALL = {"type": "call", "id": "a", "output": [{"type": "text", "text": "a"}]}


async def checked(messages: list[Any]) -> Exception | None:
    return await check_items(WHOLE, FIELDS, {"messages": messages})


@pytest.mark.parametrize(
    "messages",
    [
        [{}] * 20_000,
        [*[GOOD] * 20_000, *[{}] * 20_000],
        [{"role": "user", "content": [{}] * 20_000}],
        [{"role": "user", "content": [CALL, *[{"type": "text"}] * 20_000]}],
        [{"role": "user", "content": [CALL | {"output": [{}] * 20_000}]}],
    ],
)
async def test_many_mistakes_are_few_errors(messages: list[Any]) -> None:
    error = await checked(messages)
    assert isinstance(error, ValidationError)
    assert error.error_count() < 20


@pytest.mark.parametrize(
    "messages",
    [
        [GOOD] * 1000,
        [{"role": "user", "content": [CALL] * 1000}],
        [{"role": "user", "content": [CALL | {"output": [{"type": "text", "text": "a"}] * 1000}]}] * 3,
        [{}, {}],  # the engine explains them
        [*[GOOD] * 1000, {}, {}],
    ],
)
async def test_the_rest_is_left_to_the_engine(messages: list[Any]) -> None:
    assert await checked(messages) is None


async def test_others_have_their_turn() -> None:
    turns, check = 0, asyncio.create_task(checked([GOOD] * 4000))
    while not check.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 400


def test_every_item_stands_once_in_the_single_ones() -> None:
    body = [{"n": 1, "a": [{"n": 2}, {"n": 3, "b": [{"n": 4}, {"n": 5}]}]}, {"n": 6}]
    seen = [repr(item) for item in single_items(body)]
    for number in range(1, 7):
        assert any(f"'n': {number}" in one for one in seen)
    assert len(seen) == 4
    assert not many_items(body)
