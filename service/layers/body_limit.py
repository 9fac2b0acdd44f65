"""A body that is too large or comes too slowly is refused, at its announced length or while it comes in: never held."""

from __future__ import annotations

import asyncio

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequestError, BodyTooSlowError, ServiceError, error_response


class BodyLimit:
    """Pure ASGI: answers for the app once a body is over a limit; to the app the client has left then.

    The rest of a large body is read and dropped by the HTTP server, so that a client that only listens after it has
    sent everything still sees the answer. To one that is too slow the connection is closed.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float, rejected: Counter) -> None:
        """A body may take `seconds` from when the request is read to its end; `rejected` counts by reason."""
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._rejected = rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = _announced(scope)
        deadline = asyncio.get_running_loop().time() + self._seconds
        refused = complete = False
        seen = 0

        async def refuse(error: ServiceError, reason: str) -> None:
            nonlocal refused
            refused = True
            self._rejected.labels(reason).inc()
            await error_response(error)(scope, receive, send)

        async def receive_within_limits() -> Message:
            nonlocal complete, seen
            if refused:
                return {"type": "http.disconnect"}
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                await refuse(BodyTooSlowError(self._seconds), "body_seconds")
                return {"type": "http.disconnect"}
            complete = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                await refuse(self._too_large(), "body_bytes")
                return {"type": "http.disconnect"}
            return message

        async def send_unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        if announced is not None and announced > self._max_bytes:
            await refuse(self._too_large(), "body_bytes")
        else:
            await self._app(scope, receive_within_limits, send_unless_refused)

    def _too_large(self) -> ServiceError:
        return BadRequestError(f"The body is too large; the limit is {self._max_bytes} bytes", "body")


def _announced(scope: Scope) -> int | None:
    """Return the length that a request gives its body; None if it gives none, or sends pieces until it likes to end."""
    length = None
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return length
