"""Which kinds of bodies are read: JSON, as it is."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import Scope

from service.errors import UnsupportedMediaTypeError

_PLAIN_JSON = (b"content-type", b"application/json")


def check_content_type(scope: Scope) -> None:
    """Let a request through whose headers announce plain JSON.

    Raises:
        UnsupportedMediaTypeError: they announce something else, or a compressed body.

    """
    if _PLAIN_JSON in scope["headers"] and not any(
        name == b"content-encoding" for name, _ in scope["headers"]
    ):
        return  # nearly always, and cheaper to see
    headers = Headers(scope=scope)
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        given = f"not {media_type[:60]!r}" if media_type else "and say so"
        raise UnsupportedMediaTypeError(f"Send JSON with `content-type: application/json`, {given}")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"Compressed bodies ({encoding[:20]!r}) are not read: send plain JSON"
        )
