"""What is served: `/v1/models` for OpenAI clients, `/v1/experts` with what training knows of them."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request

from service.request.names import AUTO

router = APIRouter()
_STARTED = int(time.time())


@router.get("/v1/models")
async def models(request: Request, versions: bool = False) -> dict[str, Any]:
    """Return the names that `model` may have: routed, base, experts; with `versions` each expert's version."""
    names = request.app.state.service.decider.names
    listed = [AUTO, names.base.name, *(expert.name for expert in names.experts)]
    if versions:
        listed += [expert.engine_name for expert in names.experts]
    return {"object": "list", "data": [_card(request, name) for name in listed]}


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> dict[str, Any]:
    """Return one name that `model` may have."""
    return _card(request, name)


def _card(request: Request, name: str) -> dict[str, Any]:
    """Return what is listed of a name. Raises NotFoundError if nothing has it."""
    service = request.app.state.service
    target, base = service.decider.names.resolve(name), service.decider.names.base
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "gradientspace",
        "root": target.engine_name if target else name,
        "parent": None if target in (None, base) else base.name,
        "max_model_len": service.max_model_len,
    }


@router.get("/v1/experts")
async def experts(request: Request) -> dict[str, Any]:
    """Return the experts in label order, with their share of the training rows and what those are about."""
    bundle = request.app.state.service.bundle
    return {
        "object": "list",
        "bundle": bundle.digest,
        "base": bundle.manifest.base.name,
        "data": [
            {
                "name": expert.name,
                "model": expert.engine_name,
                "rows": expert.rows,
                "share": expert.share,
                "top_terms": list(expert.top_terms),
            }
            for expert in bundle.manifest.experts
        ],
    }
