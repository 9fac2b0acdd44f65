"""Errors as clients and users see them: one shape, one table from exception to status."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from service.usage_error import UsageError as UsageError

ENGINE_DIED = "The engine died before this answer was complete"
CONTEXT_LENGTH = "context_length_exceeded"
"""anchor:openai, the code by which clients know a prompt that is too long."""
RETRY_AFTER_SECONDS = 1  # ours: answers take seconds, and clients add a pause of their own
_INTERNAL = "Internal error; the service's log says more"
_log = logging.getLogger(__name__)


class ServiceError(Exception):
    """An error that a client of the HTTP interface sees."""

    headers: Mapping[str, str] = {}
    """What its answer carries besides the usual."""
    code: str | None = None
    """What clients know this error by; None: by its status."""

    def __init__(self, message: str, param: str | None = None) -> None:
        """`message` says what is wrong and what to do; `param` is the field of the request, if one."""
        super().__init__(message)
        self.param = param


class BadRequestError(ServiceError):
    """The request itself is wrong."""


class ContextLengthError(BadRequestError):
    """The prompt is longer than the model, or this service, takes."""

    code = CONTEXT_LENGTH

    @staticmethod
    def sentence(tokens: str, limit: int, context: int) -> str:
        """Return what is said of a prompt of so many tokens, in the words that clients look for.

        anchor:anthropic begins so, anchor:openai goes on so; litellm, LangChain and others search for either.
        """
        return (
            f"prompt is too long: {tokens} tokens > {limit} maximum. This model's maximum context length is "
            f"{context} tokens, the limit of prompt and answer together. Shorten the prompt"
        )


class UnauthorizedError(ServiceError):
    """No key, or a wrong one."""

    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}


class NotFoundError(ServiceError):
    """No such path, or no such model."""


class MethodNotAllowedError(ServiceError):
    """The path exists, but not with this method."""

    def __init__(self, message: str, allowed: str) -> None:
        """`allowed` are the methods that the path takes, for the header `allow`."""
        super().__init__(message)
        self.headers = {"allow": allowed}


class TooManyRequestsError(ServiceError):
    """As many requests are being answered as may be."""

    headers: Mapping[str, str] = {"retry-after": str(RETRY_AFTER_SECONDS)}


class ConflictError(ServiceError):
    """What was asked for can't be done as things stand; what is served goes on."""


class BodyTooSlowError(ServiceError):
    """The body did not come in time."""

    headers: Mapping[str, str] = {"connection": "close"}

    def __init__(self, seconds: float) -> None:
        """`seconds` is what it had."""
        super().__init__(f"The body was not complete within {seconds:g} seconds; send it again", "body")


class UnsupportedMediaTypeError(ServiceError):
    """The body is not announced as plain JSON."""


class ServiceUnavailableError(ServiceError):
    """The service can't answer now."""

    headers: Mapping[str, str] = {"retry-after": str(RETRY_AFTER_SECONDS)}


STATUS_OF: dict[type[Exception], int] = {
    BadRequestError: 400,
    RequestValidationError: 400,  # as vLLM and OpenAI answer it
    UnauthorizedError: 401,
    NotFoundError: 404,
    MethodNotAllowedError: 405,
    BodyTooSlowError: 408,
    ConflictError: 409,
    UnsupportedMediaTypeError: 415,
    TooManyRequestsError: 429,
    ServiceUnavailableError: 503,
    Exception: 500,
}

_ANTHROPICS = "/v1/messages"
"""Paths under it answer errors in an envelope: `{"type": "error", "error": {...}}`."""
_NAMED_EVENTS = ("/v1/messages", "/v1/responses")
"""Streams whose events have names, and that end without a [DONE]."""

TYPE_OF: dict[int, str] = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "RequestTimeoutError",
    409: "ConflictError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
}


def error_body(
    status: int, message: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """Return OpenAI's error shape; `code` is the status, as vLLM writes it, where an error has none of its own."""
    kind = TYPE_OF.get(status, "InternalServerError" if status >= 500 else "BadRequestError")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or status}}


def enveloped(body: dict[str, Any], path: str) -> dict[str, Any]:
    """Return an error's body as the clients of the path expect it."""
    return {"type": "error"} | body if path.startswith(_ANTHROPICS) else body


class ErrorAnswer(JSONResponse):
    """An error's answer, in the envelope of the path that it answers."""

    def __init__(self, body: dict[str, Any], status: int, headers: Mapping[str, str] | None = None) -> None:
        """`body` is what `error_body` makes."""
        self.error = body
        super().__init__(body, status, headers)

    def on(self, path: str) -> JSONResponse:
        """Return the answer for a path; its length is that of its body."""
        body = enveloped(self.error, path)
        changed = JSONResponse(body, self.status_code)
        kept = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        length = (b"content-length", str(len(changed.body)).encode())
        changed.raw_headers = [*kept, length]
        return changed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await self.on(scope["path"])(scope, receive, send)


def error_response(error: Exception) -> ErrorAnswer:
    """Return the answer for an exception; what is in no row of the table is a 500 that tells nothing."""
    if isinstance(error, HTTPException):
        return ErrorAnswer(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)
    status = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return ErrorAnswer(error_body(status, f"{where or 'body'}: {first['msg']}", where or None), status)
    if status == 500:
        return ErrorAnswer(error_body(500, _INTERNAL), 500)
    body = error_body(status, str(error), getattr(error, "param", None), getattr(error, "code", None))
    return ErrorAnswer(body, status, getattr(error, "headers", None))


def error_event(body: dict[str, Any], path: str) -> bytes:
    """Return the last event of a stream that ends with an error, as the clients of the path expect it."""
    if path in _NAMED_EVENTS:
        return f"event: error\ndata: {json.dumps({'type': 'error'} | body)}\n\n".encode()
    return f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n".encode()


async def handle(request: Request, error: Exception) -> JSONResponse:
    """Return the answer for an exception that FastAPI caught."""
    if isinstance(error, HTTPException) and error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET").replace("GET", "GET, HEAD")
        error = MethodNotAllowedError(f"{request.url.path} takes {allowed}, not {request.method}", allowed)
    return error_response(error)


_LONGEST = 1000
_INSIDES = re.compile(r"\s*\(parameter=[\w.]+(?:, value=.*)?\)$", re.DOTALL)
"""What vLLM's own validation errors carry behind their sentence."""
_PYDANTIC = re.compile(r"\d+ validation errors? for \w+\n[^\n]*\n\s+(?P<first>.*?)(?: \[type=|$)", re.DOTALL)


def reshaped(status: int, body: bytes) -> dict[str, Any]:
    """Return an error of the engine with every key of the shape; what it says is kept.

    vLLM answers some errors without `param` and `code`, and a crash in plain text. What it says of a failure of
    its own is for the log, not for clients.
    """
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        text = error if isinstance(error, str) else "The engine failed without saying why"
        return error_body(status, text)
    message, param = str(error.get("message") or "The engine failed without saying why"), error.get("param")
    if status >= 500:
        _log.warning("The engine failed: %s", message)
        message = _INTERNAL if status == 500 else message
    return error_body(status, _sentence(message), param if isinstance(param, str) else None)


def _sentence(message: str) -> str:
    """Return what vLLM says without what only its developers understand."""
    pydantic = _PYDANTIC.match(message)
    if pydantic is not None:
        return f"The request has not the form that this endpoint takes: {pydantic['first']}"[:_LONGEST]
    return _INSIDES.sub("", message)[:_LONGEST]
