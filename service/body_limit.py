"""A body that is too large is refused by its announced length, or else while it comes in: never held."""

from __future__ import annotations

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import BadRequestError, error_response


class BodyLimit:
    """Pure ASGI: answers for the app once a body is over the limit; to the app the client has left then.

    The rest of such a body is read and dropped by the HTTP server, so that a client that only listens
    after it has sent everything still sees the answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, rejected: Counter) -> None:
        """`rejected` counts by reason."""
        self._app = app
        self._max_bytes = max_bytes
        self._rejected = rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refused = False
        seen = 0

        async def refuse() -> None:
            nonlocal refused
            refused = True
            self._rejected.labels("body_bytes").inc()
            error = BadRequestError(f"The body is too large; the limit is {self._max_bytes} bytes", "body")
            await error_response(error)(scope, receive, send)

        async def receive_counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                if not refused:
                    await refuse()
                return {"type": "http.disconnect"}
            return message

        async def send_unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        announced = _announced(scope)
        if announced is None:
            await self._app(scope, receive_counted, send_unless_refused)
        elif announced > self._max_bytes:
            await refuse()
        else:  # the HTTP server reads no more of a body than was announced
            await self._app(scope, receive, send)


def _announced(scope: Scope) -> int | None:
    """Return the length that a request gives its body; None if it gives none, or sends pieces until it likes to end."""
    length = None
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length" and value.isdigit():
            length = int(value)
    return length
