"""Conversations carry text: images, sound, video, files and embeddings are refused, wherever they stand.

No part of a message is looked at further than its type, so no address or path in it is ever followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.errors import BadRequestError

_CONVERSATIONS = ("messages", "input", "system")
_NESTED = ("content", "output")
"""Where parts stand: of messages, and of tool results inside them."""
_TEXT_TYPES = {
    *("text", "input_text", "output_text", "refusal"),
    *("thinking", "redacted_thinking", "reasoning_text", "summary_text"),
    *("tool_use", "tool_result", "tool_reference", "tool_addition", "tool_removal"),
}
_MEDIA_FIELDS = {
    *("image_url", "image_pil", "image_embeds", "input_image"),
    *("audio_url", "audio_embeds", "input_audio"),
    *("video_url", "video_embeds", "prompt_embeds"),
    *("file", "file_id", "file_url", "file_data"),
}


def check_text_only(body: dict[str, Any]) -> None:
    """Let a request through whose messages hold nothing but text and tool calls.

    Raises:
        BadRequestError: a part is something else; `param` says which.

    """
    for field in _CONVERSATIONS:
        messages = body.get(field)
        if not isinstance(messages, list):
            continue
        for place, message in enumerate(messages):
            if field == "system":
                _check(message, f"system.{place}")
            elif isinstance(message, dict):
                for part, where in _parts(message, f"{field}.{place}"):
                    _check(part, where)


def _parts(holder: dict[str, Any], where: str) -> Iterator[tuple[Any, str]]:
    for field in _NESTED:
        parts = holder.get(field)
        if isinstance(parts, list):
            yield from ((part, f"{where}.{field}.{place}") for place, part in enumerate(parts))


def _check(part: Any, where: str) -> None:
    if not isinstance(part, dict):
        raise BadRequestError("A part has to be an object with `type` and `text`", where)
    media = sorted(_MEDIA_FIELDS & part.keys())
    if media:
        raise BadRequestError(f"A part with {media[0]!r} is not taken here: text only", where)
    kind = part.get("type")
    if not isinstance(kind, str):
        raise BadRequestError("A part needs a `type`", where)
    if kind not in _TEXT_TYPES:
        raise BadRequestError(f"A part of type {kind[:40]!r} is not taken here: text only", where)
    text = part.get("text", "")
    if not isinstance(text, str):
        raise BadRequestError("The `text` of a part has to be a text", where)
    for inner, deeper in _parts(part, where):
        _check(inner, deeper)
