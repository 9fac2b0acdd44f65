"""Tools: what can't be done with them is refused, on every door, and never left out in silence."""

from __future__ import annotations

from typing import Any

from service.errors import BadRequestError
from service.request.endpoints import Endpoint

_FREE = (None, "auto", "allowed_tools")
_OF_RESPONSES = ("auto", "none", "required", "function", "custom")


def check_tools(endpoint: Endpoint, body: dict[str, Any], calls_known: bool) -> None:
    """Let a request through whose tools can be called as it asks.

    `calls_known`: whether a call that the model makes of its own accord is recognised.

    Raises:
        BadRequestError: it asks for another choice of tools.

    """
    if not endpoint.generates or not body.get("tools"):
        return
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if endpoint.reads == "input" and kind is not None and kind not in _OF_RESPONSES:
        raise BadRequestError(
            f"tool_choice: {str(kind)[:40]!r} is not taken here: give `auto`, `required`, `none` or a function",
            "tool_choice",
        )
    if kind in _FREE and not calls_known:
        raise BadRequestError(
            "tool_choice: how this model writes a call of its own accord is not known here, so `auto` (which tools "
            "without a choice mean) can't be answered. Ask for `required`, a tool by name, or `none`; or start the "
            "service with the engine's flag --tool-call-parser",
            "tool_choice",
        )
