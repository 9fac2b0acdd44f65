"""A request's body as the rest of the service may have it: read, and nothing in it that is refused."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from service.allowlist import Endpoint
from service.constraints import check_constraints
from service.content_type import check_content_type
from service.json_object import parse_object
from service.refused_fields import without_refused_fields
from service.text_only import check_text_only


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
