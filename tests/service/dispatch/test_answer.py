"""A stream is held until the engine has begun to answer; its late errors have our shape and their own code."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.types import Message

from service.dispatch.answer import Answer
from service.errors import BadRequestError, ServiceError

START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}
ERROR = (
    b'data: {"error": {"message": "bad (parameter=n, value=3)", "type": "X", "param": "n", "code": 400}}\n\n'
)
CHUNK = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
ROLE = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
CREATED = b'event: response.created\ndata: {"type":"response.created"}\n\n'


class Client:
    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])


async def streamed(
    path: str, *events: bytes, explain: Any = lambda status, body: None
) -> tuple[Client, Answer]:
    client = Client()
    answer = Answer(client.send, path, explain)
    await answer(START)
    for event in events:
        await answer({"type": "http.response.body", "body": event, "more_body": True})
    await answer({"type": "http.response.body", "body": b"", "more_body": False})
    return client, answer


@pytest.mark.parametrize("before", [[], [ROLE], [CREATED]], ids=["first", "role", "created"])
async def test_an_error_before_anything_was_answered_is_the_answer(before: list[bytes]) -> None:
    client, answer = await streamed("/v1/chat/completions", *before, ERROR, b"data: [DONE]\n\n")
    assert (client.status, answer.status, answer.failed_with) == (400, 400, None)
    assert json.loads(client.body)["error"] == {
        "message": "bad",
        "type": "BadRequestError",
        "param": "n",
        "code": 400,
    }
    assert client.headers[b"content-type"] == b"application/json"
    assert client.headers[b"content-length"] == str(len(client.body)).encode()
    assert b"cache-control" not in client.headers


@pytest.mark.parametrize(
    ("path", "error", "beginning"),
    [
        ("/v1/completions", ERROR, b'data: {"error"'),
        ("/v1/messages", b"event: error\n" + ERROR, b'event: error\ndata: {"type": "error"'),
        ("/v1/responses", b"event: error\n" + ERROR, b'event: error\ndata: {"type": "error"'),
    ],
)
async def test_a_later_one_is_the_last_event_with_its_own_code(
    path: str, error: bytes, beginning: bytes
) -> None:
    client, answer = await streamed(path, CHUNK, error, CHUNK)
    assert (client.status, answer.failed_with) == (200, "400")
    assert client.body.startswith(CHUNK + beginning)
    assert client.body.count(CHUNK) == 1
    assert b"parameter=" not in client.body
    assert client.body.endswith(b"data: [DONE]\n\n") == (path == "/v1/completions")


async def test_who_knows_more_says_it() -> None:
    def explain(status: int, body: bytes) -> ServiceError:
        assert (status, json.loads(body)["error"]["param"]) == (400, "n")
        return BadRequestError("a loop", "grammar")

    for events in ([ERROR], [CHUNK, ERROR]):
        client, _ = await streamed("/v1/completions", *events, explain=explain)
        assert b'"param":"grammar"' in client.body.replace(b": ", b":")


async def test_what_was_held_goes_out_before_the_rest() -> None:
    client, answer = await streamed("/v1/responses", CREATED, ROLE, CHUNK)
    assert client.body == CREATED + ROLE + CHUNK
    assert client.headers[b"cache-control"] == b"no-cache"
    assert client.headers[b"x-accel-buffering"] == b"no"
    assert answer.finished
    empty, _ = await streamed("/v1/responses", CREATED)
    assert (empty.status, empty.body) == (200, CREATED)


async def test_an_answer_that_was_made_already_is_passed_on_but_its_error_noted() -> None:
    client, answer = await streamed("/v1/completions", ERROR, explain=None)
    assert (client.body, answer.failed_with) == (ERROR, "400")
