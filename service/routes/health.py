"""Health for orchestrators, and metrics for Prometheus, on this port or on one of their own."""

from __future__ import annotations

import gzip

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.errors import ServiceUnavailableError

_COMPRESSION = 1  # ours: most of what can be saved, in the least time
router = APIRouter()
metrics_router = APIRouter()


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Return 200 as long as the process answers at all."""
    return {"status": "live"}


@router.get("/health/ready")
@router.get("/health")
async def ready(request: Request) -> dict[str, str]:
    """Return 200 if requests can be answered, else 503 with the reason."""
    problem = request.app.state.service.lifecycle.not_ready_because
    if problem is not None:
        raise ServiceUnavailableError(problem)
    return {"status": "ready"}


@metrics_router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return every family of the process: vLLM's and ours; compressed for whoever takes that."""
    page, sent = generate_latest(), {"vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        page, sent["content-encoding"] = gzip.compress(page, _COMPRESSION), "gzip"
    return Response(page, media_type=CONTENT_TYPE_LATEST, headers=sent)
