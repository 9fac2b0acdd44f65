"""What happens to an answer on its way out: decision headers, the error shape, the clock.

A stream is held until the engine has begun to answer, so a mistake that the engine finds only then still gets its
own status. Later its error is the stream's last event, in the shape that all errors have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.errors import ErrorAnswer, ServiceError, error_body, error_event, error_response, reshaped

Explain = Callable[[int, bytes], ServiceError | None]
"""Asked about an error of the engine, its status and body: what to say instead, if it is known."""

_OF_STREAMS = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
"""anchor:openai and nginx: nothing on the way stores a stream, or keeps its events until it has more of them."""
_ERROR_EVENTS = (b'data: {"error"', b"event: error\n")
_PREAMBLES = (b"event: response.created\n", b"event: response.in_progress\n", b"event: message_start\n")
"""Events that the engine sends before it has answered anything."""
_ROLE = b'"delta":{"role":"assistant","content":""}'
"""What a chat's first event says, sent just before the first text."""


class Answer:
    """A send channel that adds headers, gives errors their shape, and knows what was sent."""

    def __init__(self, send: Send, path: str, explain: Explain | None = None) -> None:
        """Give the channel that the answer goes into, the request's path, and who knows more of an engine's errors.

        Without one, what comes is an answer that another of these made, or several put together: nothing is
        held, and errors have their shape.
        """
        self._send = send
        self._path = path
        self._explain = explain
        self.headers: Sequence[tuple[str, str]] = ()
        """What is added to it, once that is known."""
        self._held: Message | None = (
            None  # the start: of an error until its body is complete, of a stream its preamble
        )
        self._error = b""
        self._preamble = b""
        self._is_stream = False
        self.status: int | None = None
        self.failed_with: str | None = None
        """The code of the error that a stream ended with."""
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
            self._held, self._is_stream = None, False
            await error_response(error)(scope, receive, self)
        elif self._is_stream:
            known = error_response(error)
            self.failed_with = str(known.status_code)
            body = error_event(known.error, self._path)
            await self._pass({"type": "http.response.body", "body": body, "more_body": False})
        else:
            raise RuntimeError("The answer was cut in the middle")
        self._failed = True

    async def _start(self, message: Message) -> None:
        self.status = message["status"]
        given = message.get("headers", ())
        self._is_stream = any(
            name == b"content-type" and value.startswith(b"text/event-stream") for name, value in given
        )
        added = [(name.encode(), value.encode()) for name, value in self.headers]
        if self._is_stream:
            given = [pair for pair in given if pair[0] not in dict(_OF_STREAMS)]
            added += _OF_STREAMS
        message = {**message, "headers": [*given, *added]}
        if self._explain is not None and (self.status >= 400 or self._is_stream):
            self._held = message
        else:
            await self._send(message)

    async def _body(self, message: Message) -> None:
        chunk, more = message.get("body", b""), message.get("more_body", False)
        if self._is_stream:
            await self._event(chunk, more)
        elif self._held is None:
            await self._pass(message)
        else:
            self._error += chunk
            if not more:
                start, self._held = self._held, None
                await self._send_error(start, start["status"], self._error)

    async def _event(self, chunk: bytes, more: bool) -> None:
        """Pass a piece of a stream on, or hold it; vLLM sends each of its events as one piece."""
        if chunk.startswith(_ERROR_EVENTS) and (error := _data_of(chunk)) is not None:
            code = error["error"].get("code")
            status = code if isinstance(code, int) and 400 <= code <= 599 else 500
            if self._explain is None:
                self.failed_with = str(400 if isinstance(code, str) else status)  # only a mistake has a name
                await self._pass({"type": "http.response.body", "body": chunk, "more_body": more})
                return
            if self._held is not None:
                start, self._held = self._held, None
                self._is_stream = False
                self._failed = True  # what still comes, a [DONE] for example, belongs to the stream
                await self._send_error(start, status, json.dumps(error).encode())
                return
            known = self._known(status, json.dumps(error).encode())
            self.failed_with = str(known.status_code)
            chunk = error_event(known.error, self._path)
            await self._pass({"type": "http.response.body", "body": chunk, "more_body": False})
            self._failed = True
            return
        if self._held is not None:
            if more and (not chunk or chunk.startswith(_PREAMBLES) or _ROLE in chunk):
                self._preamble += chunk
                return
            start, self._held = self._held, None
            await self._send(start)
            chunk, self._preamble = self._preamble + chunk, b""
        if self.first_event_at is None and chunk and not chunk.startswith(b":"):
            self.first_event_at = time.perf_counter()  # a line with a colon first only keeps the line open
        await self._pass({"type": "http.response.body", "body": chunk, "more_body": more})

    def _known(self, status: int, body: bytes) -> ErrorAnswer:
        """Return what is said of an error of the engine."""
        better = self._explain(status, body) if self._explain is not None else None
        return error_response(better) if better is not None else ErrorAnswer(reshaped(status, body), status)

    async def _send_error(self, start: Message, status: int, body: bytes) -> None:
        known = self._known(status, body).on(self._path)
        self.status = known.status_code
        start = {**start, "status": known.status_code}
        changed = MutableHeaders(scope=start)
        for name, _ in _OF_STREAMS:
            del changed[name.decode()]
        changed.update(dict(known.headers))
        await self._send(start)
        await self._pass({"type": "http.response.body", "body": bytes(known.body), "more_body": False})

    async def _pass(self, message: Message) -> None:
        self.finished = not message.get("more_body", False)
        await self._send(message)


def _data_of(event: bytes) -> dict[str, Any] | None:
    """Return the error object of a piece that may be an error event."""
    line = next((line for line in event.splitlines() if line.startswith(b"data: ")), b"")
    try:
        found = json.loads(line.removeprefix(b"data: "))
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    return found if isinstance(found.get("error"), dict) else error_body(500, str(found.get("message", "")))
