"""One meaning for what clients write in several ways."""

from __future__ import annotations

from typing import Any

import pytest

from service.request.endpoints import ENDPOINTS
from service.request.normal_form import in_normal_form, without_nulls

RESPONSES, MESSAGES = ENDPOINTS["/v1/responses"], ENDPOINTS["/v1/messages"]


def test_nulls_are_absent_but_in_lists_schemas_and_calls() -> None:
    schema = {"enum": [None, "a"], "default": None}
    given = {
        "n": None,
        "stop": ["a", None],
        "messages": [{"role": "user", "content": "a", "name": None}],
        "tools": [{"function": {"name": "f", "strict": None, "parameters": schema}}],
        "content": [{"type": "tool_use", "id": None, "input": {"a": None}}],
        "structured_outputs": {"json": schema, "regex": None},
    }
    assert without_nulls(given) == {
        "stop": ["a", None],
        "messages": [{"role": "user", "content": "a"}],
        "tools": [{"function": {"name": "f", "parameters": schema}}],
        "content": [{"type": "tool_use", "input": {"a": None}}],
        "structured_outputs": {"json": schema},
    }


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"suffix": ""}, {}),
        ({"suffix": "x"}, {"suffix": "x"}),
        ({"tools": [], "tool_choice": "auto"}, {}),
        ({"tools": [], "tool_choice": {"type": "none"}}, {}),
        ({"tools": [], "tool_choice": "required"}, {"tool_choice": "required"}),
    ],
)
def test_what_is_empty_asks_for_nothing(given: dict[str, Any], kept: dict[str, Any]) -> None:
    assert in_normal_form(ENDPOINTS["/v1/chat/completions"], given) == kept


def text(*parts: str) -> list[dict[str, Any]]:
    return [{"type": "output_text", "text": part} for part in parts]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (text("b"), "b"),
        (text("a", "b"), "a\nb"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
    ],
)
def test_an_answer_played_back_is_complete(content: list[dict[str, Any]], said: str) -> None:
    body = {"input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]}
    user, assistant = in_normal_form(RESPONSES, body)["input"]
    assert user == body["input"][0]
    assert assistant == {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": said, "annotations": []}],
    }


def test_an_answer_that_is_to_be_continued_stays_one() -> None:
    item = {
        "type": "message",
        "id": "mine",
        "role": "assistant",
        "status": "incomplete",
        "content": text("b"),
    }
    (kept,) = in_normal_form(RESPONSES, {"input": [item]})["input"]
    assert (kept["id"], kept["status"]) == ("mine", "incomplete")


def test_what_is_no_text_is_left_to_the_engine() -> None:
    items = [
        3,
        {"type": "function_call", "name": "f"},
        {"role": "assistant", "content": [{"type": "input_image"}]},
    ]
    assert in_normal_form(RESPONSES, {"input": items})["input"] == items


def test_blocks_of_system_are_joined_as_a_chats_parts_are() -> None:
    blocks = [{"type": "text", "text": text} for text in ("a", "x-anthropic-billing-header: 1", "b")]
    assert in_normal_form(MESSAGES, {"system": blocks})["system"] == "a\nb"
