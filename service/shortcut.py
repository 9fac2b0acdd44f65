"""The way of requests for the engine past FastAPI's search through our own routes."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from service.request.endpoints import ENDPOINTS


class Shortcut:
    """Pure ASGI, the innermost layer: what dispatch serves goes there at once, everything else on to the routes."""

    def __init__(self, app: ASGIApp, dispatch: ASGIApp) -> None:
        """`app` has the routes, and `dispatch` as well for what none of them takes."""
        self._app = app
        self._dispatch = dispatch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        dispatched = scope["type"] == "http" and scope["path"] in ENDPOINTS
        await (self._dispatch if dispatched else self._app)(scope, receive, send)
