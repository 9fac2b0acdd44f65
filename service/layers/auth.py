"""The layer that checks API keys: before a body is read, and before anything is routed.

`/admin/` has keys of its own, and is not served without one: a route there needs no check of its own.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import NotFoundError, UnauthorizedError, UsageError, error_response
from service.request.endpoints import PLAYGROUND
from service.settings import Settings

OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/health/ready"})
"""What answers without a key: health, and the playground, which holds nothing secret."""
ADMIN_PREFIX = "/admin/"


class Keys:
    """Some keys, of which only digests are kept."""

    def __init__(self, keys: Sequence[str]) -> None:
        """With no keys at all, nothing is accepted."""
        spelled = {*(_digest(key, "utf-8") for key in keys), *(_digest(key, "latin-1") for key in keys)}
        self._digests = tuple(digest for digest in spelled if digest is not None)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def accept(self, headers: Headers) -> bool:
        """Return whether a request carries one of the keys, as OpenAI's or as Anthropic's clients send it.

        The time it takes depends on how many keys there are, not on what was sent.
        """
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        accepted = False
        for sent in (bearer, headers.get("x-api-key", "")):
            # Headers are bytes, read as latin-1: a key with other letters than English ones comes as UTF-8 or so.
            digest = hashlib.sha256(sent.encode("latin-1", "replace")).digest()
            for known in self._digests:
                accepted |= hmac.compare_digest(digest, known)
        return accepted


@dataclass(frozen=True)
class Access:
    """The keys of clients, none if everybody may ask, and those of administrators."""

    clients: Keys
    admins: Keys


def read_access(settings: Settings) -> Access:
    """Return the keys that the settings and their files name.

    Raises:
        UsageError: a file can't be read or holds no key.

    """
    return Access(
        _keys(settings.api_key, settings.api_key_file, "api_key_file"),
        _keys(settings.admin_key, settings.admin_key_file, "admin_key_file"),
    )


class Authentication:
    """Pure ASGI: a request without a key gets a 401 and goes no further."""

    def __init__(self, app: ASGIApp, access: Access, on_refused: Callable[[], None]) -> None:
        """`on_refused` is called for each request that is turned away."""
        self._app = app
        self._access = access
        self._on_refused = on_refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        error = self._refusal(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        self._on_refused()
        await error_response(error)(scope, receive, send)

    def _refusal(self, scope: Scope) -> UnauthorizedError | NotFoundError | None:
        path = scope["path"]
        if path.startswith(ADMIN_PREFIX):
            if not self._access.admins:
                return NotFoundError(f"{path} is not served: the service was started without an admin key")
            keys = self._access.admins
        elif _is_open(path) or not self._access.clients:
            return None
        else:
            keys = self._access.clients
        if keys.accept(Headers(scope=scope)):
            return None
        return UnauthorizedError(
            "Give a valid API key, as `Authorization: Bearer KEY` or as `x-api-key: KEY`"
        )


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(PLAYGROUND)


def _keys(given: Sequence[SecretStr], file: Path | None, setting: str) -> Keys:
    keys = [key.get_secret_value() for key in given]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise UsageError(f"Setting {setting!r}: {file} can't be read ({reason})") from None
        listed = [line.strip() for line in lines if line.strip()]
        if not listed:
            raise UsageError(f"Setting {setting!r}: {file} holds no key; write one per line")
        keys += listed
    return Keys(keys)


def _digest(key: str, encoding: str) -> bytes | None:
    """Return the digest of a key as a client would send it in this encoding; None if it can't."""
    try:
        return hashlib.sha256(key.encode(encoding)).digest()
    except UnicodeEncodeError:
        return None
