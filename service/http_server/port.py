"""A port: taken before the long start, and served until everything on it has its answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial

import uvicorn
from starlette.types import ASGIApp

from service.errors import UsageError
from service.http_server.protocol import KEEP_ALIVE_SECONDS, SEND_SECONDS, HttpProtocol

_LINGER_SECONDS = 2  # ours: for clients that have not sent all of a request, or not read all of an answer


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: they would close the port before anyone sees a 503."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bound_socket(host: str, port: int, setting: str) -> socket.socket:
    """Take the port, so that a port in use is said at once; nothing listens yet.

    Raises:
        UsageError: it can't be had; the sentence names the setting.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        flag = f"--{setting.replace('_', '-')}"
        raise UsageError(
            f"Port {port} on {host} can't be opened ({error.strerror}). Give another with {flag}"
        ) from error
    return sock


@asynccontextmanager
async def listening(
    app: ASGIApp,
    sock: socket.socket,
    send_seconds: float = SEND_SECONDS,
    keep_alive: float = KEEP_ALIVE_SECONDS,
) -> AsyncIterator[None]:
    """Answer on the port for the block, and close it afterwards.

    A client may read nothing for `send_seconds`, and an idle connection stays open for `keep_alive` seconds.
    """
    server = _HttpServer(
        uvicorn.Config(
            app,
            http=partial(HttpProtocol, send_seconds=send_seconds),  # type: ignore[arg-type]
            ws="none",  # nothing here speaks websocket
            lifespan="off",
            log_config=None,  # its lines go where ours go
            access_log=False,  # `request_log` says more
            server_header=False,
            timeout_keep_alive=keep_alive,  # type: ignore[arg-type]  # a timer's seconds, whole or not
            timeout_graceful_shutdown=_LINGER_SECONDS,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started and not running.done():
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await running
