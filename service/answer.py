"""What happens to an answer on its way out: decision headers, the error shape, the clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Send

from service.errors import BadRequestError, error_body, reshaped

Mistake = Callable[[bytes], BadRequestError | None]
"""What is wrong with the request, if an error (its body is given) is the client's mistake."""
_MAY_BE_A_MISTAKE = (400, 500)


class Answer:
    """A send channel that adds headers, gives errors their shape, and knows what was sent."""

    def __init__(
        self, send: Send, headers: Sequence[tuple[str, str]] = (), mistake: Mistake = lambda _: None
    ) -> None:
        """`headers` are added to the answer; `mistake` is asked about errors of the engine."""
        self._send = send
        self._headers = headers
        self._mistake = mistake
        self._held: Message | None = None  # the start of an error, until its body is complete
        self._error = b""
        self._is_stream = False
        self.status: int | None = None
        self.finished = False
        self.first_event_at: float | None = None
        """`time.perf_counter()` of a stream's first event."""

    async def __call__(self, message: Message) -> None:
        """Pass a message on."""
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        message = {**message, "headers": list(message.get("headers", ()))}
        added = MutableHeaders(scope=message)
        for name, value in self._headers:
            added[name] = value
        self._is_stream = added.get("content-type", "").startswith("text/event-stream")
        if self.status >= 400:
            self._held = message
        else:
            await self._send(message)

    async def _body(self, message: Message) -> None:
        chunk, more = message.get("body", b""), message.get("more_body", False)
        if self._held is not None:
            self._error += chunk
            if more:
                return
            start, self._held = self._held, None
            found = self._mistake(self._error) if start["status"] in _MAY_BE_A_MISTAKE else None
            if found is None:
                message = {**message, "body": reshaped(start["status"], self._error)}
            else:
                self.status = start["status"] = 400
                message = {**message, "body": json.dumps(error_body(400, str(found), found.param)).encode()}
            changed = MutableHeaders(scope=start)
            changed["content-type"] = "application/json"
            changed["content-length"] = str(len(message["body"]))
            await self._send(start)
        elif self._is_stream and self.first_event_at is None and chunk and not chunk.startswith(b":"):
            self.first_event_at = time.perf_counter()  # a line with a colon first only keeps the line open
        self.finished = not more
        await self._send(message)
