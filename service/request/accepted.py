"""A request's body as the rest of the service may have it: read, and nothing in it that is refused."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from service.request.constraints import check_constraints
from service.request.content import check_text_only
from service.request.content_type import check_content_type
from service.request.endpoints import Endpoint
from service.request.json_body import parse_object
from service.request.refused_fields import without_refused_fields


def accepted_body(endpoint: Endpoint, scope: Scope, raw: bytes) -> dict[str, Any]:
    """Return the body of a request to `endpoint`.

    Raises:
        UnsupportedMediaTypeError: it is not announced as plain JSON.
        BadRequestError: it is no JSON object, asks for what is refused, or carries more than text.

    """
    check_content_type(scope)
    body = without_refused_fields(endpoint, parse_object(raw))
    check_text_only(body)
    check_constraints(body)
    return body
