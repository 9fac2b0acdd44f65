"""What is served: `/v1/models` for OpenAI clients, `/v1/experts` with what training knows of them."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request

from service.request.names import AUTO

router = APIRouter()
_STARTED = int(time.time())


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """Return every name that `model` may have: routed, base, experts, and each expert's pinned version."""
    service = request.app.state.service
    names = service.decider.names
    base = names.base.name

    def card(name: str, parent: str | None, root: str | None = None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": _STARTED,
            "owned_by": "gradientspace",
            "root": root or name,
            "parent": parent,
            "max_model_len": service.max_model_len,
        }

    return {
        "object": "list",
        "data": [
            card(AUTO, None),
            card(base, None),
            *(card(expert.name, base, expert.engine_name) for expert in names.experts),
            *(card(expert.engine_name, base) for expert in names.experts),
        ],
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
