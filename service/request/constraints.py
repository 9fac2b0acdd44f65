"""What forces the form of an answer: JSON schemas, regular expressions, grammars, choices, tools to be called.

The engine compiles them before it answers, one after the other, and a long one holds all others up: a
megabyte of choices took it more than a minute and a half. So their size is bounded here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from service.errors import BadRequestError
from service.request.pattern_size import MAX_POSITIONS, patterns, positions

MAX_CHARACTERS = 65_536  # ours: some seconds of compiling on a slow machine
MAX_BAD_WORDS = 4_096  # ours: some ten milliseconds
_FREE_CHOICES = (None, "auto", "none")


def constraints(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request that force the form of its answer."""
    forcing = {field: body.get(field) for field in ("structured_outputs", "response_format")}
    for field in ("text", "output_config"):  # of `/v1/responses` and of `/v1/messages`
        holder = body.get(field)
        forcing[field] = holder.get("format") if isinstance(holder, dict) else None
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in _FREE_CHOICES:
        forcing["tools"] = body.get("tools")
    return {field: value for field, value in forcing.items() if value}


def check_constraints(body: Mapping[str, Any]) -> None:
    """Let a request through whose constraints are of a size that the engine can compile.

    Raises:
        BadRequestError: one is longer than MAX_CHARACTERS as JSON, or its patterns than MAX_POSITIONS.

    """
    for field, value in constraints(body).items():
        size = len(json.dumps(value))
        if size > MAX_CHARACTERS:
            raise BadRequestError(
                f"{field}: {size:,} characters are more than the {MAX_CHARACTERS:,} that may force the form "
                "of an answer",
                field,
            )
        size = sum(map(positions, patterns(value)))
        if size > MAX_POSITIONS:
            raise BadRequestError(
                f"{field}: its patterns stand for {size:,} characters, repetitions counted; the limit is "
                f"{MAX_POSITIONS:,}",
                field,
            )
    _check_bad_words(body.get("bad_words"))


def _check_bad_words(words: object) -> None:
    """The engine reads each of them twice with its tokenizer, and answers nobody meanwhile."""
    if isinstance(words, list):
        size = sum(len(word) for word in words if isinstance(word, str))
        if size > MAX_BAD_WORDS or len(words) > MAX_BAD_WORDS // 4:
            raise BadRequestError(
                f"bad_words: {len(words):,} words of {size:,} characters; the limits are {MAX_BAD_WORDS // 4:,} and "
                f"{MAX_BAD_WORDS:,}",
                "bad_words",
            )
