"""The HTTP interface: our own routes, and dispatch behind them for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import errors
from service.decision import Decider
from service.dispatch import Dispatch
from service.identity import Identity
from service.lifecycle import Lifecycle
from service.request_text import RequestTexts
from service.routes import catalog, health, route
from service.shortcut import Shortcut

if TYPE_CHECKING:
    from bundle.read import Bundle


@dataclass(frozen=True)
class Service:
    """What the routes need to answer; everything in it is ready."""

    bundle: Bundle
    decider: Decider
    texts: RequestTexts
    lifecycle: Lifecycle
    max_model_len: int


def build_app(service: Service, dispatch: Dispatch) -> FastAPI:
    """Return the app; a path that none of our routes has goes to `dispatch`."""
    app = FastAPI(
        title="GradientSpace", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.service = service
    for room in (catalog, route, health):
        app.include_router(room.router)
    app.router.default = dispatch
    app.add_middleware(Shortcut, dispatch=dispatch)
    for kind in (HTTPException, RequestValidationError, errors.ServiceError, Exception):
        app.add_exception_handler(kind, errors.handle)
    app.add_middleware(Identity, bundle_digest=service.bundle.digest)
    return app
