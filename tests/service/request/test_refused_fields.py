"""What is refused before anything is routed, and what is let through unchanged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import BadRequestError, UnsupportedMediaTypeError
from service.request.endpoints import ENDPOINTS
from service.request.json_body import MAX_DEPTH, parse_object
from service.request.refused_fields import REFUSED, accepted_body

JSON = [(b"content-type", b"application/json")]
CHAT, RESPONSES, COMPLETIONS = (
    ENDPOINTS[path] for path in ("/v1/chat/completions", "/v1/responses", "/v1/completions")
)


def accepted(body: Any, endpoint: Any = CHAT, headers: Any = JSON) -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return accepted_body(endpoint, {"type": "http", "headers": headers}, raw)


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no body"),
        (b'{"a": 1', "can't be read as JSON"),
        (b"[1]", "JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": [-Infinity]}', "-Infinity"),
        (b'{"a": 1e400}', "infinite"),
        (b'{"a": -1E+999}', "infinite"),
        (b'{"a": 1' + b"0" * 30 + b"}", "64 bits"),
        (b'{"a": -' + b"9" * 19 + b"}", "64 bits"),
        (b'{"a": ' + b"9" * 9_000 + b"}", "64 bits"),
        (b'{"a": "\xff"}', "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (nested(MAX_DEPTH + 1), "too deeply"),
        (nested(100_000), "too deeply"),
        (b"[" * 100_000, "too deeply"),
    ],
)
def test_what_is_no_strict_json(raw: bytes, says: str) -> None:
    with pytest.raises(BadRequestError, match=says) as caught:
        parse_object(raw)
    assert len(str(caught.value)) < 200


def test_strict_json_is_read_as_it_is() -> None:
    numbers = [2**64 - 1, -(2**63), 1e300, 1e-400, 0.1, -0.0]
    texts = ["\U0001f600", "12345678901234567890123", "1e999", "NaN", "ä"]
    body = {"numbers": numbers, "texts": texts, "deep": json.loads(nested(MAX_DEPTH - 1))}
    assert parse_object(json.dumps(body).encode()) == body
    assert parse_object(b'{"model": "a", "model": "b"}') == {"model": "b"}


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"content-type", b"text/plain")],
        [(b"content-type", b"application/x-www-form-urlencoded")],
        [(b"content-type", b"application/jsonx")],
        [(b"content-type", b"text/plain"), *JSON],
        [*JSON, (b"content-encoding", b"gzip")],
    ],
)
def test_other_kinds_of_bodies(headers: Any) -> None:
    with pytest.raises(UnsupportedMediaTypeError):
        accepted({"messages": []}, headers=headers)


def test_a_charset_may_stand_behind_the_content_type() -> None:
    assert accepted({"a": 1}, headers=[(b"content-type", b"Application/JSON; charset=utf-8")]) == {"a": 1}


@pytest.mark.parametrize("field", sorted(REFUSED))
def test_a_refused_field_by_name_and_what_asks_for_nothing(field: str) -> None:
    with pytest.raises(BadRequestError, match=f"^{field} is not taken here: ") as caught:
        accepted({"messages": [], field: {"some": "thing"}})
    assert caught.value.param == field
    for nothing in (None, False, "", {}, 0):
        assert accepted({"messages": [], field: nothing}) == {"messages": []}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "a", "prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
        ({"input": "a", "tools": [{"type": "function"}, {"type": "web_search"}]}, "tools.1"),
        ({"input": "a", "tools": [{"type": "mcp", "server_url": "http://127.0.0.1/"}]}, "tools.0"),
        ({"input": "a", "store": True}, "store"),
        ({"input": "a", "background": True}, "background"),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id"),
    ],
)
def test_what_responses_would_need_state_or_the_outside_for(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        accepted(body, RESPONSES)
    assert caught.value.param == param


def test_responses_are_never_stored() -> None:
    assert accepted({"input": "a"}, RESPONSES) == {"input": "a", "store": False}
    assert "store" not in accepted({"messages": []})


def test_fields_of_which_one_value_is_harmless() -> None:
    for body in ({"modalities": ["text"]}, {"best_of": 1}, {"best_of": 3, "n": 3}, {"prompt": "a"}):
        assert accepted(body, COMPLETIONS) == body
    for body in (
        {"modalities": ["text", "audio"]},
        {"best_of": 3},
        {"chat_template_kwargs": {"chat_template": "{{ x }}"}},
        {"chat_template_kwargs": {"bos_token": ""}},
        {"chat_template_kwargs": {"enable_thinking": False, "eos_token": "x"}},
        {"chat_template_kwargs": {"additional_special_tokens": []}},
        {"chat_template_kwargs": {"messages": []}},
    ):
        with pytest.raises(BadRequestError):
            accepted(body, COMPLETIONS)


SECRET = "file:///etc/passwd"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": SECRET}},
        {"type": "input_image", "image_url": SECRET},
        {"type": "image", "source": {"type": "url", "url": SECRET}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": SECRET}},
        {"type": "input_file", "file_url": SECRET},
        {"type": "document", "source": {"type": "url", "url": SECRET}},
        {"type": "prompt_embeds", "data": "AA=="},
        {"image_url": SECRET},
        {"type": "text", "text": "a", "image_url": SECRET},
        {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image", "source": {}}]},
    ],
)
def test_only_text_is_taken_wherever_it_stands(part: dict[str, Any]) -> None:
    for body in (
        {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [part]}]},
        {"input": [{"role": "user", "content": [part]}]},
        {"input": [{"type": "function_call_output", "call_id": "1", "output": [part]}]},
        {"messages": [], "system": [part]},
    ):
        with pytest.raises(BadRequestError, match="text only") as caught:
            accepted(body)
        assert caught.value.param
        assert "passwd" not in str(caught.value)


def test_text_and_tool_calls_are_taken() -> None:
    answered = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "4"}]}
    called = {"type": "tool_use", "id": "1", "name": "add", "input": {"type": "image", "file_id": "x"}}
    body = {
        "system": [{"type": "text", "text": "a"}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [called]},
            {"role": "user", "content": [answered]},
        ],
    }
    assert accepted(body) == body
