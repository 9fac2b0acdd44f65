"""uvicorn's HTTP, with the error shape even where a request can't be read as HTTP at all, or never comes whole."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from service.errors import error_body

HEAD_SECONDS = 60.0
"""anchor:nginx, `client_header_timeout`: all headers of a request, from the connection or else their first byte."""


class HttpProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
    """Answers what is no HTTP (two lengths, a broken chunk, a bad header) with 400, and hangs up.

    So it does with 408 where headers begin and don't end in time. A connection on which nothing comes is closed.
    """

    loop: asyncio.AbstractEventLoop
    transport: Any
    cycle: Any
    _begun = False
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request's headers."""
        super().connection_made(transport)
        self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; time runs while a request has begun and its headers are not complete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
            return
        self._begun = True
        if self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def send_400_response(self, msg: str) -> None:
        """Send the answer; `msg` is uvicorn's, the same for everything."""
        self._hang_up(HTTPStatus.BAD_REQUEST, "The request can't be read as HTTP/1.1")

    def _stop_waiting(self) -> None:
        self._begun = False
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _give_up(self) -> None:
        if self._begun:
            message = f"The headers were not complete within {HEAD_SECONDS:g} seconds; send the request again"
            self._hang_up(HTTPStatus.REQUEST_TIMEOUT, message)
        else:
            self.transport.close()

    def _hang_up(self, status: HTTPStatus, message: str) -> None:
        body = json.dumps(error_body(status, message)).encode()
        self.transport.write(
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "content-type: application/json\r\n"
            f"content-length: {len(body)}\r\n"
            "connection: close\r\n"
            "\r\n".encode()
            + body
        )
        self.transport.close()
