"""The outermost layer: every answer says which request and which bundle it belongs to."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import headers

_ACCEPTED = re.compile(r"[\w.:/+=@-]{1,128}")


class Identity:
    """Pure ASGI: takes the client's request id or makes one, passes it inwards and sends it back."""

    def __init__(self, app: ASGIApp, bundle_digest: str) -> None:
        """`bundle_digest` is `Bundle.digest`."""
        self._app = app
        self._bundle_digest = bundle_digest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(headers.REQUEST_ID, "")
        request_id = given if _ACCEPTED.fullmatch(given) else uuid.uuid4().hex
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)[headers.REQUEST_ID] = request_id

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer[headers.REQUEST_ID] = request_id
                answer[headers.BUNDLE] = self._bundle_digest
            await send(message)

        await self._app(scope, receive, send_identified)
