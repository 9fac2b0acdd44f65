"""Clients that say all they have to say, close their side and listen, and clients that close and are gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from service.http_server import half_closed
from service.http_server.port import bound_socket, listening

PROBE = b"HTTP/1.1 102 Processing\r\n\r\n"
SOON = 0.05


class Slow:
    """Answers when it is told to; counts the clients that left before."""

    def __init__(self) -> None:
        self.begun, self.left = 0, 0
        self.may_answer = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        self.begun += 1
        gone = asyncio.create_task(receive())
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while not (gone.done() or self.may_answer.is_set()):
                await send({"type": "http.response.body", "body": b"more ", "more_body": True})
                await asyncio.sleep(SOON)
        else:
            told = asyncio.create_task(self.may_answer.wait())
            await asyncio.wait({gone, told}, return_when=asyncio.FIRST_COMPLETED)
            told.cancel()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        self.left += gone.done()
        await send({"type": "http.response.body", "body": b"ok"})
        gone.cancel()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_closed, "_FIRST_SECONDS", SOON)
    monkeypatch.setattr(half_closed, "_LOOK_SECONDS", SOON)


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Slow, socket.socket]]:
    app, port = Slow(), bound_socket("127.0.0.1", 0, "port")
    async with listening(app, port):
        client = socket.create_connection(port.getsockname())
        client.setblocking(False)
        try:
            yield app, client
        finally:
            client.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


async def rest(client: socket.socket) -> bytes:
    """All that the server says until it hangs up."""
    said = b""
    async with asyncio.timeout(60):
        while piece := await asyncio.get_running_loop().sock_recv(client, 65_536):
            said += piece
    return said


def ask(path: str, version: str = "1.1") -> bytes:
    body = b"{}"
    return f"POST {path} HTTP/{version}\r\nhost: t\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_who_still_listens_gets_the_answer(version: str) -> None:
    async with connected() as (app, client):
        client.send(ask("/slow", version))
        client.shutdown(socket.SHUT_WR)
        await until(lambda: app.begun == 1)
        await asyncio.sleep(10 * SOON)
        app.may_answer.set()
        said = await rest(client)
        assert said.startswith(PROBE) == (version == "1.1")  # HTTP/1.0 knows no interim answer
        final = said.removeprefix(PROBE)
        assert final.startswith(b"HTTP/1.1 200 OK\r\n")
        assert final.endswith(b"\r\n\r\nok")
        assert app.left == 0


async def test_an_answer_that_is_there_at_once_has_no_probe_before_it() -> None:
    async with connected() as (app, client):
        app.may_answer.set()
        client.send(ask("/slow"))
        client.shutdown(socket.SHUT_WR)
        assert (await rest(client)).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_an_answer_that_has_begun_goes_on_without_a_probe_in_it() -> None:
    async with connected() as (app, client):
        client.send(ask("/stream"))
        await until(lambda: app.begun == 1)
        client.shutdown(socket.SHUT_WR)
        await asyncio.sleep(5 * SOON)
        app.may_answer.set()
        said = await rest(client)
        assert PROBE not in said
        assert said.count(b"more ") > 2
        assert said.endswith(b"ok\r\n0\r\n\r\n")
        assert app.left == 0


async def test_all_that_were_asked_in_a_row_are_answered_before_the_server_hangs_up() -> None:
    async with connected() as (app, client):
        client.send(ask("/slow") * 3)
        client.shutdown(socket.SHUT_WR)
        await until(lambda: app.begun == 1)
        app.may_answer.set()
        assert (await rest(client)).count(b"HTTP/1.1 200 OK\r\n") == 3


@pytest.mark.parametrize("path", ["/slow", "/stream"])
async def test_who_has_gone_is_noticed(path: str) -> None:
    async with connected() as (app, client):
        client.send(ask(path))
        await until(lambda: app.begun == 1)
        client.close()
        await until(lambda: app.left == 1)


@pytest.mark.parametrize("rest_of_it", [b"", ask("/slow")[:-1]])
async def test_what_never_came_whole_is_not_waited_for(rest_of_it: bytes) -> None:
    """The first request of two is whole, or none is."""
    async with connected() as (app, client):
        client.send(ask("/slow") + rest_of_it if rest_of_it else ask("/slow")[:-1])
        client.shutdown(socket.SHUT_WR)
        app.may_answer.set()
        said = await rest(client)
        assert said.count(b" 200 OK") == (1 if rest_of_it else 0)
