"""The outermost layer: every answer says which request and which bundle it belongs to."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import headers

_ACCEPTED = re.compile(rb"[\w.:/+=@-]{1,128}")
_REQUEST_ID = headers.REQUEST_ID.encode()
_BUNDLE = headers.BUNDLE.encode()
_OURS = (_REQUEST_ID, _BUNDLE)


class RequestIds:
    """Pure ASGI: takes the client's request id or makes one, passes it inwards and sends it back."""

    def __init__(self, app: ASGIApp, bundle_digest: str) -> None:
        """`bundle_digest` is `Bundle.digest`."""
        self._app = app
        self._served = (_BUNDLE, bundle_digest.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = b""
        others = []
        for pair in scope["headers"]:
            if pair[0] == _REQUEST_ID:
                given = given or pair[1]
            else:
                others.append(pair)
        request_id = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex.encode()
        identified = (_REQUEST_ID, request_id)
        scope = {**scope, "headers": [*others, identified]}

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0] not in _OURS]
                message = {**message, "headers": [*kept, identified, self._served]}
            await send(message)

        await self._app(scope, receive, send_identified)
