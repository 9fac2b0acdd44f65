"""One request in, one answer out, on raw sockets: whatever a request offers, expects or hides, however it is cut."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from service.http_server.port import bound_socket, listening

HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: t\r\n\r\n"
"""What must never be answered: it stands in the body of another request."""
OFFERS = {
    "nothing": b"",
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
    "anything": b"upGRADE: TLS/1.0, foo\r\nconnection: keep-alive, uPgrade\r\n",
}
BODIES = {
    "none": b"\r\n",
    "length": b"Content-Length: %d\r\n\r\n%s" % (len(HIDDEN), HIDDEN),
    "chunked": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"1\r\n%c\r\n" % byte for byte in HIDDEN)
    + b"0\r\nX-Trailer: 1\r\nAuthorization: Bearer t\r\n\r\n",
}


class Seen:
    """An app that answers every request with its path and the length of its body."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.bodies: list[bytes] = []
        self.left = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.scopes.append(scope)
        body = b""
        if scope["path"] != "/unread":
            while True:
                message = await receive()
                body += message.get("body", b"")
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    break
        self.bodies.append(body)
        if scope["path"] == "/until-gone":
            while (await receive())["type"] != "http.disconnect":
                pass
            self.left += 1
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(100_000):
                await send({"type": "http.response.body", "body": b"x" * 10_000, "more_body": True})
                if getattr(send.__self__, "disconnected", False):  # type: ignore[attr-defined]
                    self.left += 1
                    return
        answer = b"[%s]" % scope["path"].encode()
        headers = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[tuple[Seen, Any]]:
    app, sock = Seen(), bound_socket("127.0.0.1", 0, "port")
    async with listening(app, sock, **options):
        writers = []

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writers.append(writer)
            return reader, writer

        yield app, connect
        for writer in writers:
            writer.close()


async def answers(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), 10)


def packets(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % len(raw) for cut in cuts), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges) if end > start]


@pytest.mark.parametrize("expectation", ["", "Expect: 100-continue\r\n", "Expect: something\r\n"])
@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("offer", OFFERS)
async def test_one_request_in_one_answer_out(offer: str, body: str, expectation: str) -> None:
    """And the next request on the connection is answered as itself, wherever the packets are cut."""
    head = b"POST /asked HTTP/1.1\r\nHost: t\r\n" + OFFERS[offer] + expectation.encode()
    asked = head + BODIES[body]
    last = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    ends = [len(head), len(head) + len(BODIES[body].partition(b"\r\n\r\n")[0]) + 4, len(asked)]
    async with served() as (app, connect):
        for cuts in ([], *([end + by] for end in ends for by in (-1, 0)), range(1, len(asked + last), 29)):
            app.scopes, app.bodies = [], []
            reader, writer = await connect()
            for packet in packets(asked + last, cuts):
                writer.write(packet)
                await asyncio.sleep(0.001)
            answer = (await answers(reader)).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
            assert [scope["path"] for scope in app.scopes] == ["/asked", "/last"], cuts
            assert app.bodies == [b"" if body == "none" else HIDDEN, b""]
            assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1") == 2
            names = {name for scope in app.scopes for name, _ in scope["headers"]}
            assert not names & {b"upgrade", b"x-trailer", b"authorization"}


async def test_every_cut_of_a_chunked_body_ends_at_the_same_byte() -> None:
    asked = b"POST /asked HTTP/1.1\r\nHost: t\r\n" + OFFERS["h2c"] + BODIES["chunked"]
    last = b"GET /last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
    async with served() as (app, connect):
        for cut in range(len(asked) - len(BODIES["chunked"]), len(asked) + 8):
            reader, writer = await connect()
            for packet in packets(asked + last, [cut]):
                writer.write(packet)
                await asyncio.sleep(0.001)
            assert (await answers(reader)).count(b"HTTP/1.1 200 OK") == 2, cut
    assert {scope["path"] for scope in app.scopes} == {"/asked", "/last"}


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/2.0\r\nHost: t\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT t:80 HTTP/1.1\r\nHost: t\r\n\r\n" + HIDDEN, 501),
        (b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n" + HIDDEN, 400),
        (
            b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + HIDDEN,
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: gzip\r\n\r\n" + HIDDEN, 400),
        (b"POST / HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nnot a size\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: t\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\nX-Long: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X-Some: aaaaaaaa\r\n" * 5_000 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"a:\r\n" * 300 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: t\r\n" + b"X: " + b"a" * 60_000 + b"\r\n\r\n", 200),
    ],
)
async def test_what_is_refused_is_answered_once_and_the_connection_closed(raw: bytes, status: int) -> None:
    async with served() as (app, connect):
        reader, writer = await connect()
        if status == 200 and b"1.1" in raw:
            raw = raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        writer.write(raw)
        answer = await answers(reader)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert "/hidden" not in {scope["path"] for scope in app.scopes}
        if status == 431:
            assert b"65536 bytes" in answer or b"limit is 256" in answer


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nHost: t\r\nX-Long: ",
        b"GET /",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Long: ",
        b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
)
async def test_sixty_four_megabytes_of_one_header_are_never_held(start: bytes) -> None:
    async with served() as (_, connect):
        reader, writer = await connect()
        writer.write(start)
        sent = 0
        try:
            for _ in range(64):
                writer.write(b"a" * 1_000_000)
                await writer.drain()
                sent += 1
                if reader._buffer:  # type: ignore[attr-defined]
                    break
        except OSError:
            pass
        assert sent < 64
        assert (await answers(reader)).startswith(b"HTTP/1.1 431 ")


async def test_a_body_that_was_not_asked_for_is_not_taken_for_a_request() -> None:
    """The client waits for 100, gets the answer instead, and may now send either: so nothing is read."""
    async with served() as (app, connect):
        reader, writer = await connect()
        writer.write(
            b"POST /unread HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n"
        )
        answer = await asyncio.wait_for(reader.readuntil(b"[/unread]"), 10)
        assert answer.startswith(b"HTTP/1.1 200 ")
        writer.write(HIDDEN)
        assert await answers(reader) == b""
        assert [scope["path"] for scope in app.scopes] == ["/unread"]


async def test_a_body_that_breaks_behind_its_answer_gets_no_second_one() -> None:
    async with served() as (_, connect):
        reader, writer = await connect()
        writer.write(b"POST /unread HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await asyncio.wait_for(reader.readuntil(b"[/unread]"), 10)
        writer.write(b"broken\r\n")
        assert await answers(reader) == b""


async def test_a_second_request_does_not_hide_that_the_client_has_gone() -> None:
    async with served() as (app, connect):
        _, writer = await connect()
        writer.write(b"GET /until-gone HTTP/1.1\r\nHost: t\r\n\r\nGET /never HTTP/1.1\r\nHost: t\r\n\r\n")
        await asyncio.sleep(0.1)
        writer.close()
        async with asyncio.timeout(10):
            while not app.left:
                await asyncio.sleep(0.01)
        assert [scope["path"] for scope in app.scopes] == ["/until-gone"]


async def test_who_reads_nothing_is_hung_up_on() -> None:
    async with served(send_seconds=0.3) as (app, connect):
        reader, writer = await connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"x"), 10)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while not app.left:
                await asyncio.sleep(0.05)


async def test_who_reads_slowly_is_not() -> None:
    async with served(send_seconds=1) as (app, connect):
        reader, writer = await connect()
        writer.write(b"GET /endless HTTP/1.1\r\nHost: t\r\n\r\n")
        for _ in range(40):
            await asyncio.wait_for(reader.readexactly(1_000_000), 10)
            await asyncio.sleep(0.05)
        assert not app.left
