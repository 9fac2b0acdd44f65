"""A request in the form in which it means the same on every door.

Clients write one thing in several ways: a null for what they leave out, an empty list of tools, an answer of theirs
played back without the fields that only a server knows. The engine takes some of these here and refuses them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.request.endpoints import Endpoint

_DATA = {"arguments", "documents", "input_schema", "json", "parameters", "schema"}
"""Fields that hold a client's own data or JSON schemas, in which a null is a value."""
_EMPTY_CHOICES = ("auto", "none")
_UNFINISHED = ("in_progress", "incomplete")
_BILLING = "x-anthropic-billing-header"
"""How a block of `system` begins that Claude Code adds to be counted, not to be read; the engine drops it too."""


def without_nulls(value: Any) -> Any:
    """Return a JSON value without the keys whose value is null: they mean what an absent key means.

    Nulls stay in lists, in JSON schemas, and in what a tool was called with.
    """
    if isinstance(value, list):
        return [without_nulls(one) for one in value]
    if not isinstance(value, dict):
        return value
    calls = value.get("type") == "tool_use"
    return {
        key: one if key in _DATA or (calls and key == "input") else without_nulls(one)
        for key, one in value.items()
        if one is not None
    }


def in_normal_form(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a request to `endpoint`, its nulls taken out, as the engine takes it on every door."""
    body = _without_empty(body)
    if endpoint.reads == "input" and isinstance(body.get("input"), list):
        body["input"] = [_item(place, item) for place, item in enumerate(body["input"])]
    if endpoint.path.startswith("/v1/messages") and isinstance(body.get("system"), list):
        body["system"] = _system(body["system"])
    return body


def _without_empty(body: dict[str, Any]) -> dict[str, Any]:
    body = dict(body)
    if body.get("suffix") == "":
        del body["suffix"]
    if body.get("tools") == []:
        del body["tools"]
    if "tools" not in body:
        choice = body.get("tool_choice")
        if (choice.get("type") if isinstance(choice, dict) else choice) in _EMPTY_CHOICES:
            del body["tool_choice"]
    return body


def _item(place: int, item: Any) -> Any:
    """Return an item of `input` with what the engine needs and clients leave out when they play it back."""
    if not isinstance(item, dict):
        return item
    kind, content = item.get("type", "message"), item.get("content")
    if kind == "reasoning":
        return {"summary": []} | item
    if kind != "message" or not isinstance(content, list):
        return item
    if item.get("role") != "assistant":
        return item | {"content": [_input_part(part) for part in content]}
    texts = list(_texts(content))
    if len(texts) < len(content):
        return item  # something else is in it, which the engine is going to name
    status = item.get("status")
    return {
        "type": "message",
        "id": item.get("id") or f"msg_{place}",
        "role": "assistant",
        "status": status if status in _UNFINISHED else "completed",
        # one part, joined as a chat's parts are: of several the engine reads the first alone
        "content": [{"type": "output_text", "text": "\n".join(texts), "annotations": []}],
    }


def _texts(parts: list[Any]) -> Iterator[str]:
    for part in parts:
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if isinstance(text, str):
            yield text


def _input_part(part: Any) -> Any:
    is_text = isinstance(part, dict) and part.get("type") in ("text", "output_text")
    return part | {"type": "input_text"} if is_text else part


def _system(blocks: list[Any]) -> Any:
    """Return the blocks of `system` as one text, joined as a chat's parts are."""
    texts = list(_texts(blocks))
    if len(texts) < len(blocks):
        return blocks
    return "\n".join(text for text in texts if not text.startswith(_BILLING))
