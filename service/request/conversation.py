"""What a conversation has to have: messages with a role, parts with a text. Said here with the message's number."""

from __future__ import annotations

from typing import Any

from service.errors import BadRequestError
from service.request.endpoints import Endpoint

_MAY_BE_SILENT = "assistant"
"""Whose turn may have no content: it called a tool."""


_OTHER_ITEMS = (
    *("reasoning", "item_reference"),
    *("function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output"),
)


def check_conversation(endpoint: Endpoint, body: dict[str, Any]) -> None:
    """Let a request through whose messages are complete; one that has none is left to whoever reads them.

    Raises:
        BadRequestError: one is not; `param` is the field that is missing or wrong.

    """
    if endpoint.reads == "input":
        items, field = body.get("input"), "input"
    else:
        items, field = body.get("messages"), "messages"
    if not isinstance(items, list):
        return
    for place, item in enumerate(items):
        where = f"{field}.{place}"
        if not isinstance(item, dict):
            raise BadRequestError(f"{where}: give an object with role and content", where)
        kind = item.get("type", "message")
        if field == "input" and kind != "message":
            if kind not in _OTHER_ITEMS:
                raise BadRequestError(
                    f"{where}.type: an item of type {str(kind)[:40]!r} is not taken here", f"{where}.type"
                )
            continue
        _check_message(item, where)


def _check_calls(calls: Any, where: str) -> None:
    """Check a chat's calls of tools; the engine would number their messages wrongly."""
    for place, call in enumerate(calls if isinstance(calls, list) else ()):
        function = call.get("function") if isinstance(call, dict) else None
        at = f"{where}.tool_calls.{place}.function"
        if not isinstance(function, dict):
            raise BadRequestError(f"{at}: give an object with name and arguments", at)
        for field in ("name", "arguments"):
            if field not in function:
                raise BadRequestError(f"{at}.{field}: a call needs it", f"{at}.{field}")


def _check_message(message: dict[str, Any], where: str) -> None:
    role = message.get("role")
    if role is None:
        raise BadRequestError(f"{where}.role: a message needs a role", f"{where}.role")
    if not isinstance(role, str):
        raise BadRequestError(f"{where}.role: give a text", f"{where}.role")
    _check_calls(message.get("tool_calls"), where)
    content = message.get("content")
    if content is None:
        if role != _MAY_BE_SILENT:
            raise BadRequestError(f"{where}.content: a message needs a content", f"{where}.content")
    elif not isinstance(content, str | list):
        raise BadRequestError(f"{where}.content: give a text or a list of parts", f"{where}.content")
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and str(part.get("type")).endswith("text") and "text" not in part:
            at = f"{where}.content.{place}.text"
            raise BadRequestError(f"{at}: a part of type {str(part['type'])[:40]!r} needs it", at)
