"""The HTTP interface: our own routes, and dispatch behind them for everything else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import errors, headers
from service.dispatch.dispatch import Dispatch
from service.layers.auth import Access, Authentication
from service.layers.body_limit import BodyLimit
from service.layers.observation import Observation
from service.layers.request_id import RequestIds
from service.lifecycle.in_flight import InFlight
from service.lifecycle.lifecycle import Lifecycle
from service.request.decision import Decider
from service.request.endpoints import ENDPOINTS
from service.request.limits import RequestLimits
from service.request.routed_text import RequestTexts
from service.routes import admin, catalog, health, openapi, playground, route
from service.routes.route import OnePerTurn
from service.settings import Settings
from service.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from bundle.read import Bundle
    from service.telemetry.spans import Tracer
    from service.versions.reload import Reloader


@dataclass(frozen=True)
class Service:
    """What the routes need to answer; everything in it is ready."""

    bundle: Bundle
    decider: Decider
    texts: RequestTexts
    lifecycle: Lifecycle
    in_flight: InFlight
    limits: RequestLimits
    max_model_len: int
    reloader: Reloader
    engine_routes: tuple[Any, ...] = ()
    """Every route of vLLM's app, for the OpenAPI document."""
    dry_runs: OnePerTurn = field(default_factory=OnePerTurn)
    """`/v1/route` costs a client nothing to ask, and is asked in floods."""


def build_app(
    service: Service,
    dispatch: Dispatch,
    access: Access,
    metrics: Metrics,
    settings: Settings,
    tracer: Tracer | None,
) -> FastAPI:
    """Return the app; a path that none of our routes has goes to `dispatch`."""
    app = _bare_app()
    app.state.service = service
    for room in (catalog, route, health, admin, openapi):
        app.include_router(room.router)
    if settings.metrics_port is None:
        app.include_router(health.metrics_router)
    if settings.playground:
        app.include_router(playground.router)
    app.router.default = dispatch
    app.add_middleware(HeadAsGet)
    app.add_middleware(Shortcut, dispatch=dispatch)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.max_body_bytes,
        seconds=settings.body_seconds,
        rejected=metrics.rejected,
    )
    app.add_middleware(Authentication, access=access, on_refused=metrics.rejected.labels("unauthorized").inc)
    app.add_middleware(Observation, metrics=metrics, tracer=tracer)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=("GET", "HEAD", "POST"),
            allow_headers=("*",),
            expose_headers=(*headers.ON_EVERY_ANSWER, *headers.ON_EVERY_DECISION, "retry-after"),
        )
    app.add_middleware(RequestIds, bundle_digest=service.bundle.digest)
    return app


def build_metrics_app() -> FastAPI:
    """Return the app of a port that has nothing but `/metrics`."""
    app = _bare_app()
    app.include_router(health.metrics_router)
    app.add_middleware(HeadAsGet)
    return app


def _bare_app() -> FastAPI:
    app = FastAPI(
        title="GradientSpace", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    for kind in (HTTPException, RequestValidationError, errors.ServiceError, Exception):
        app.add_exception_handler(kind, errors.handle)
    return app


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


class HeadAsGet:
    """Pure ASGI: answers HEAD wherever GET is answered, with its headers and without its body."""

    def __init__(self, app: ASGIApp) -> None:
        """`app` has the routes."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def bodiless(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app({**scope, "method": "GET"}, receive, bodiless)
