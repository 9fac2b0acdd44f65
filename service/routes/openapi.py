"""`GET /openapi.json`: what this service takes and gives, for tools that read it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from service.routes.openapi_document import document

router = APIRouter()


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> Response:
    """Return the document; made at the first request, on a thread, because it takes about a second."""
    state: Any = request.app.state
    if not hasattr(state, "openapi"):
        made = document(request.app.routes, state.service.engine_routes)
        state.openapi = json.dumps(made).encode()
    return Response(state.openapi, media_type="application/json")
