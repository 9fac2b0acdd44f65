"""Who may use the admin routes."""

from __future__ import annotations

import hmac

from starlette.requests import Request

from service.errors import NotFoundError, UnauthorizedError


def check_admin_key(request: Request, key: str | None) -> None:
    """Let a request pass that carries the admin key as its bearer token.

    Raises:
        NotFoundError: there is no admin key, so there are no admin routes.
        UnauthorizedError: the request has no key or another one.

    """
    if key is None:
        raise NotFoundError(f"{request.method} {request.url.path} is not served here")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), key.encode()):
        raise UnauthorizedError("This route takes the admin key: send `Authorization: Bearer KEY`")
