"""Which kinds of bodies are read: JSON, as it is."""

from __future__ import annotations

from starlette.types import Scope

from service.errors import UnsupportedMediaTypeError

_READ = (b"content-type", b"content-encoding")


def check_content_type(scope: Scope) -> None:
    """Let a request through whose headers announce plain JSON.

    Raises:
        UnsupportedMediaTypeError: they announce something else, or a compressed body.

    """
    # Of a header that is sent twice the first counts, as it does for the engine.
    announced = {name: value.decode("latin-1") for name, value in reversed(scope["headers"]) if name in _READ}
    media_type = announced.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        given = f"not {media_type[:60]!r}" if media_type else "and say so"
        raise UnsupportedMediaTypeError(f"Send JSON with `content-type: application/json`, {given}")
    encoding = announced.get(b"content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"Compressed bodies ({encoding[:20]!r}) are not read: send plain JSON"
        )
