"""A request body as a JSON object, read strictly: whoever reads it after us reads the same.

Python's reader is lenient (NaN, infinite numbers, UTF-16, numbers of any length); what it lets through
would reach the tokenizer or the engine and fail there. A body that is not announced as plain JSON is not read at all.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from starlette.types import Scope

from service.errors import BadRequestError, UnsupportedMediaTypeError

MAX_DEPTH = 128  # ours: the engine takes JSON schemas of 64 levels, and they stand some levels deep
_INTEGERS = range(-(2**63), 2**64)  # what the engine's own messages can carry
_LONG_NUMBER = re.compile(r"\d{19}|\d[eE]\+?\d{3}")
"""Stands in every text that has an integer beyond 64 bits or an infinite number (and in some others)."""

_ANNOUNCED = (b"content-type", b"content-encoding")


def check_content_type(scope: Scope) -> None:
    """Let a request through whose headers announce plain JSON.

    Raises:
        UnsupportedMediaTypeError: they announce something else, or a compressed body.

    """
    # Of a header that is sent twice the first counts, as it does for the engine.
    announced = {
        name: value.decode("latin-1") for name, value in reversed(scope["headers"]) if name in _ANNOUNCED
    }
    media_type = announced.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        given = f"not {media_type[:60]!r}" if media_type else "and say so"
        raise UnsupportedMediaTypeError(f"Send JSON with `content-type: application/json`, {given}")
    encoding = announced.get(b"content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(
            f"Compressed bodies ({encoding[:20]!r}) are not read: send plain JSON"
        )


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object of a body; of a key given twice the last value counts.

    Raises:
        BadRequestError: it is empty, no JSON in UTF-8, no object, nested deeper than MAX_DEPTH, or holds
            a number beyond 64 bits or half of a surrogate pair.

    """
    if not body:
        raise BadRequestError("The request has no body: send a JSON object")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequestError(f"The body is not UTF-8: {error.reason} at byte {error.start}") from error
    decoder = _CHECKED if _LONG_NUMBER.search(text) else _DECODER
    try:
        parsed = decoder.decode(text)
    except json.JSONDecodeError as error:
        raise BadRequestError(f"The body can't be read as JSON: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    if not isinstance(parsed, dict):
        raise BadRequestError("The body has to be a JSON object")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(parsed)
    if "\\u" in text:
        _check_surrogates(parsed)
    return parsed


def _no_constant(name: str) -> NoReturn:
    raise BadRequestError(f"The body can't be read as JSON: {name} is no JSON number")


def _integer(digits: str) -> int:
    if len(digits) > 20 or int(digits) not in _INTEGERS:
        raise BadRequestError(f"The number {digits[:24]}... in the body has more than 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise BadRequestError(f"The number {digits[:24]} in the body is infinite")
    return number


# Hooks are called back for every number, so only bodies that may need them pay for that.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_CHECKED = json.JSONDecoder(parse_constant=_no_constant, parse_int=_integer, parse_float=_finite)


def _too_deep() -> BadRequestError:
    return BadRequestError(f"The body is nested too deeply: {MAX_DEPTH} levels at most")


def _check_depth(parsed: dict[str, Any]) -> None:
    level: list[Any] = [parsed]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep()


def _check_surrogates(parsed: dict[str, Any]) -> None:
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequestError(
            "The body holds half of a surrogate pair (\\ud800-\\udfff), which is no text"
        ) from error
