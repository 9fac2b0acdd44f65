"""A body that is too large or too slow: refused while it comes in, and its sender told."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from service.layers.body_limit import BodyLimit
from service.telemetry.metrics import Metrics


class Reader:
    """An app that reads a whole body before it answers."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            body += message["body"]
            if not message["more_body"]:
                self.bodies.append(body)
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"read"})


@pytest.mark.parametrize(
    ("lengths", "read"),
    [
        ([(b"content-length", b"12000000")], 0),
        ([], 4),
        ([(b"content-length", b"5"), (b"transfer-encoding", b"chunked")], 4),
    ],
    ids=["announced", "not announced", "announced as less, and sent in pieces"],
)
async def test_a_large_body_is_refused_while_it_is_read(
    lengths: list[tuple[bytes, bytes]], read: int
) -> None:
    inner, metrics = Reader(), Metrics(CollectorRegistry())
    app = BodyLimit(inner, 1000, 60, metrics.rejected)
    pieces = 0

    async def receive() -> Message:
        nonlocal pieces
        pieces += 1
        return {"type": "http.request", "body": b"x" * 300, "more_body": pieces < 40_000}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/", "headers": lengths}, receive, send)
    assert pieces == read
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 400
    assert "1000 bytes" in json.loads(sent[1]["body"])["error"]["message"]
    assert inner.bodies == []
    assert metrics.rejected.labels("body_bytes")._value.get() == 1


@pytest.mark.parametrize("lengths", [[(b"content-length", b"900")], []], ids=["announced", "not announced"])
async def test_a_body_that_comes_too_slowly_is_refused_though_it_never_stops(
    lengths: list[tuple[bytes, bytes]],
) -> None:
    inner, metrics = Reader(), Metrics(CollectorRegistry())
    app = BodyLimit(inner, 1000, 0.2, metrics.rejected)

    async def receive() -> Message:
        await asyncio.sleep(0.05)
        return {"type": "http.request", "body": b"x", "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": lengths}
    await asyncio.wait_for(app(scope, receive, send), 120)
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    error = json.loads(sent[1]["body"])["error"]
    assert (error["type"], error["code"], error["param"]) == ("RequestTimeoutError", 408, "body")
    assert "within 0.2 seconds" in error["message"]
    assert inner.bodies == []
    assert metrics.rejected.labels("body_seconds")._value.get() == 1


async def test_an_answer_may_take_longer_than_its_body_might() -> None:
    class Slow(Reader):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            with pytest.raises(TimeoutError):  # nothing more comes, and nothing of it is a mistake
                await asyncio.wait_for(receive(), 0.2)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})

    metrics = Metrics(CollectorRegistry())
    app = BodyLimit(Slow(), 1000, 0.05, metrics.rejected)
    given = [{"type": "http.request", "body": b"{}", "more_body": False}]

    async def receive() -> Message:
        return given.pop() if given else await asyncio.Event().wait()  # type: ignore[return-value]

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
    assert [message.get("body") for message in sent] == [None, b"late"]


async def test_a_body_of_just_the_limit_passes() -> None:
    inner = Reader()
    app = BodyLimit(inner, 1000, 60, Metrics(CollectorRegistry()).rejected)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        assert (await client.post("/", content=b"x" * 1000)).text == "read"
        assert (await client.post("/", content=b"x" * 1001)).status_code == 400
    assert inner.bodies == [b"x" * 1000]


async def test_to_a_client_that_never_sends_the_rest_the_answer_is_given_and_the_line_closed() -> None:
    inner, metrics = Reader(), Metrics(CollectorRegistry())
    app = BodyLimit(inner, 1000, 0.2, metrics.rejected)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 10\r\n\r\nhalf")
        answer = await asyncio.wait_for(reader.read(), 120)  # to the end: the server hangs up
        writer.close()
    finally:
        server.should_exit = True
        await serving
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"RequestTimeoutError"' in answer
    assert inner.bodies == []
