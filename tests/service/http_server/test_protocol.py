"""Headers that never end, connections on which nothing comes, and what is no HTTP, on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from service.http_server import protocol
from service.http_server.port import bound_socket, listening

REQUEST = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n"
SECONDS = 0.3


KEEP_ALIVE = 600.0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers later than headers may take."""
    if scope["path"] == "/late":
        await asyncio.sleep(2 * SECONDS)
    if scope["path"] == "/unknown":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", SECONDS)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sock = bound_socket("127.0.0.1", 0, "port")
    async with listening(app, sock, keep_alive=KEEP_ALIVE):
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 120)  # to the end: the server hangs up


def error_of(answer: bytes) -> dict[str, object]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert f"content-length: {len(body)}".encode() in head
    error: dict[str, object] = json.loads(body)["error"]
    return error


async def test_headers_that_do_not_end_are_refused_though_they_never_stop() -> None:
    async with connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nhost: t\r\n")
        answer = asyncio.create_task(rest(reader))
        while not answer.done():
            writer.write(b"x-more: 1\r\n")
            await asyncio.sleep(0.05)
        assert answer.result().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        error = error_of(answer.result())
        assert (error["type"], error["code"]) == ("RequestTimeoutError", 408)
        assert "within 0.3 seconds" in str(error["message"])


async def test_a_second_request_on_the_same_connection_has_the_same_limit() -> None:
    async with connected() as (reader, writer):
        writer.write(REQUEST)
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 120)).startswith(b"HTTP/1.1 200")
        writer.write(REQUEST[:20])
        assert (await rest(reader)).startswith(b"HTTP/1.1 408 ")


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async with connected() as (reader, _):
        assert await rest(reader) == b""


async def test_an_answer_may_take_longer_than_its_headers_might() -> None:
    async with connected() as (reader, writer):
        for path in (b"/late", b"/late"):
            writer.write(REQUEST.replace(b"/ ", path + b" "))
            assert (await asyncio.wait_for(reader.readuntil(b"ok"), 120)).startswith(b"HTTP/1.1 200")


async def test_what_is_no_http_is_a_400() -> None:
    async with connected() as (reader, writer):
        writer.write(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert error_of(answer)["message"] == "The request can't be read as HTTP/1.1"


@pytest.mark.parametrize(("path", "announced"), [("/known", True), ("/unknown", False)])
async def test_a_client_of_http_1_0_gets_no_chunks(path: str, announced: bool) -> None:
    async with connected() as (reader, writer):
        writer.write(f"GET {path} HTTP/1.0\r\nhost: t\r\n\r\n".encode())
        head, _, body = (await rest(reader)).partition(b"\r\n\r\n")
        assert body == (b"ok" if announced else b"onetwo")
        assert (b"content-length: 2" in head) == announced
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head


async def test_an_idle_connection_stays_as_long_as_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.KEEP_ALIVE", 2.0)
    async with connected() as (reader, writer):
        writer.write(REQUEST)
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(2 * SECONDS)  # longer than headers may take
        writer.write(REQUEST)
        assert (await asyncio.wait_for(reader.readuntil(b"ok"), 10)).startswith(b"HTTP/1.1 200")
        assert await rest(reader) == b"", "it is closed without a word"
