"""What can't be done with tools is refused."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import BadRequestError
from service.request.endpoints import ENDPOINTS
from service.request.tools import check_tools

TOOLS = {"tools": [{"type": "function"}]}
FREE: list[dict[str, Any]] = [{}, {"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}]
FORCED: list[dict[str, Any]] = [
    {"tool_choice": "required"},
    {"tool_choice": "none"},
    {"tool_choice": {"type": "function", "name": "f"}},
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_free_choice_needs_to_know_how_the_model_calls(path: str) -> None:
    for choice in FREE:
        check_tools(ENDPOINTS[path], TOOLS | choice, calls_known=True)
        check_tools(ENDPOINTS[path], choice, calls_known=False)  # no tools, nothing to call
        with pytest.raises(BadRequestError, match="--tool-call-parser"):
            check_tools(ENDPOINTS[path], TOOLS | choice, calls_known=False)
    for choice in FORCED:
        check_tools(ENDPOINTS[path], TOOLS | choice, calls_known=False)


def test_what_only_counts_calls_nothing() -> None:
    check_tools(ENDPOINTS["/v1/messages/count_tokens"], TOOLS, calls_known=False)


@pytest.mark.parametrize("kind", ["allowed_tools", "web_search_preview", "mcp"])
def test_responses_drop_no_choice(kind: str) -> None:
    with pytest.raises(BadRequestError):
        check_tools(ENDPOINTS["/v1/responses"], TOOLS | {"tool_choice": {"type": kind}}, calls_known=True)
