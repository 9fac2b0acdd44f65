"""What happens to an answer on its way out: decision headers, the error shape, the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.errors import ServiceError, error_event, error_response, reshaped

Explain = Callable[[int, bytes], ServiceError | None]
"""Asked about an error of the engine, its status and body: what to say instead, if it is known."""


class Answer:
    """A send channel that adds headers, gives errors their shape, and knows what was sent."""

    def __init__(self, send: Send, explain: Explain = lambda status, body: None) -> None:
        """Give the channel that the answer goes into, and who knows more of an engine's errors."""
        self._send = send
        self._explain = explain
        self.headers: Sequence[tuple[str, str]] = ()
        """What is added to it, once that is known."""
        self._held: Message | None = None  # the start of an error, until its body is complete
        self._error = b""
        self._is_stream = False
        self.status: int | None = None
        self.finished = False
        self._failed = False
        self.first_event_at: float | None = None
        """`time.perf_counter()` of a stream's first event."""

    async def __call__(self, message: Message) -> None:
        """Pass a message on; after `fail`, drop it."""
        if self._failed:
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)
        else:
            await self._send(message)

    async def fail(self, error: Exception, scope: Scope, receive: Receive) -> None:
        """End the answer with an error, whatever of it went out; do nothing if it is complete.

        Raises:
            RuntimeError: half an answer that is no stream went out; only a closed connection says so.

        """
        if self.finished:
            return
        if self.status is None or self._held is not None:
            self._held = None
            await error_response(error)(scope, receive, self)
        elif self._is_stream:
            body = error_event(error, scope["path"])
            await self({"type": "http.response.body", "body": body, "more_body": False})
        else:
            raise RuntimeError("The answer was cut in the middle")
        self._failed = True

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        given = message.get("headers", ())
        self._is_stream = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in given
        )
        decided = [(name.encode(), value.encode()) for name, value in self.headers]
        message = {**message, "headers": [*given, *decided]}
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
            better = self._explain(start["status"], self._error)
            changed = MutableHeaders(scope=start)
            if better is None:
                message = {**message, "body": reshaped(start["status"], self._error)}
            else:
                known = error_response(better)
                self.status = start["status"] = known.status_code
                message = {**message, "body": bytes(known.body)}
                changed.update(dict(known.headers))
            changed["content-type"] = "application/json"
            changed["content-length"] = str(len(message["body"]))
            await self._send(start)
        elif self._is_stream and self.first_event_at is None and chunk and not chunk.startswith(b":"):
            self.first_event_at = time.perf_counter()  # a line with a colon first only keeps the line open
        self.finished = not more
        await self._send(message)
