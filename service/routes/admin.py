"""`POST /admin/reload`: serve the bundle that now lies where the service was started with one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.errors import BadRequestError
from service.request.json_body import parse_object

router = APIRouter()


@router.post("/admin/reload")
async def reload(request: Request) -> dict[str, Any]:
    """Return what is served from now on. The body is empty: no client names what is loaded."""
    service = request.app.state.service
    raw = await request.body()
    if raw and parse_object(raw):
        raise BadRequestError("Send no body: the folder is the one that the service was started with")
    reloaded = await service.reloader.reload()
    return {
        "object": "reload",
        "bundle": reloaded.now,
        "before": reloaded.before,
        "changed": reloaded.now != reloaded.before,
        "seconds": round(reloaded.seconds, 3),
    }
