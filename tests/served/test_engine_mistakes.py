"""What the engine would answer with 500, or with its insides, because of what a client sent: 400s instead.

Each of these was a 500, a closed connection, or half a page of Python from the engine itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.request.constraints import MAX_CHARACTERS

TELLS_TOO_MUCH = re.compile(
    r"Traceback|validation error|'loc'|\[type=|ValidatorIterator|has no attribute|\bvllm\b"
)
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPT: dict[str, Any] = {"prompt": "Hi there", "max_tokens": 4}
MESSAGES: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi there"}], "max_tokens": 4}


@pytest.fixture(autouse=True, scope="module")
def _alive_afterwards(http: httpx.Client) -> Iterator[None]:
    yield
    assert http.post(COMPLETIONS, json=PROMPT).status_code == 200


def refused(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 400, (answer.status_code, answer.text)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("BadRequestError", 400)
    assert not TELLS_TOO_MUCH.search(error["message"]), error["message"]
    assert len(error["message"]) <= 1000
    return error


@pytest.mark.parametrize("value", [1, 0.5, "a", [1], True], ids=str)
@pytest.mark.parametrize(("path", "body"), [(COMPLETIONS, PROMPT), (CHAT, MESSAGES)], ids=["raw", "chat"])
def test_a_check_that_fails_on_what_it_did_not_expect(
    http: httpx.Client, path: str, body: dict[str, Any], value: object
) -> None:
    answer = http.post(path, json=body | {"structured_outputs": value})
    assert refused(answer)["param"] == "structured_outputs"


@pytest.mark.parametrize(
    "constraint",
    [
        {"grammar": 'root ::= root "a"'},
        {"grammar": "root ::= root"},
        {"json": {"$ref": "#"}},
        {"json": {"type": "string", "minLength": -5}},
    ],
    ids=str,
)
def test_a_constraint_that_the_engine_gives_up_on(http: httpx.Client, constraint: dict[str, Any]) -> None:
    answer = http.post(COMPLETIONS, json=PROMPT | {"structured_outputs": constraint})
    assert refused(answer)["param"] == "structured_outputs"


@pytest.mark.parametrize(
    ("path", "more"),
    [
        (COMPLETIONS, {"structured_outputs": {"choice": ["x" * 10_000] * 100}}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": "x" * MAX_CHARACTERS}}}),
        ("/v1/responses", {"input": "a", "text": {"format": {"name": "x" * MAX_CHARACTERS}}}),
        ("/v1/messages", {"output_config": {"format": {"schema": {"a": "x" * MAX_CHARACTERS}}}}),
        (CHAT, {"tool_choice": "required", "tools": [{"function": {"name": "x" * MAX_CHARACTERS}}]}),
    ],
    ids=["choice", "json_schema", "responses", "messages", "tools"],
)
def test_a_constraint_that_would_hold_others_up(http: httpx.Client, path: str, more: dict[str, Any]) -> None:
    body = PROMPT if path == COMPLETIONS else MESSAGES
    assert "65,536" in refused(http.post(path, json=body | more))["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, MESSAGES | {"max_tokens": "many"}, "max_tokens"),
        (CHAT, MESSAGES | {"temperature": []}, "temperature"),
        (CHAT, MESSAGES | {"tools": [{"type": "function"}], "tool_choice": "required"}, "tools.0.function"),
        (CHAT, {"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0"),
        (CHAT, {"messages": [{"role": "user", "content": [None]}]}, "messages.0.content.0"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, None),
        (COMPLETIONS, PROMPT | {"logit_bias": {"a": 1}}, "logit_bias"),
        (COMPLETIONS, PROMPT | {"logit_bias": {"-1": 1}}, "logit_bias"),
        (COMPLETIONS, PROMPT | {"allowed_token_ids": [10**9]}, "allowed_token_ids"),
        (COMPLETIONS, PROMPT | {"stop_token_ids": [-1]}, "stop_token_ids"),
        (COMPLETIONS, PROMPT | {"prompt": [10**9]}, None),
        (COMPLETIONS, PROMPT | {"stop": [[]]}, "stop"),
        ("/v1/messages", MESSAGES | {"max_tokens": "many"}, "max_tokens"),
        (
            "/v1/messages",
            {"messages": [{"role": "nobody", "content": "a"}], "max_tokens": 1},
            "messages.0.role",
        ),
        ("/v1/responses", {"input": "a", "temperature": "hot"}, "temperature"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": 5}, "add_special_tokens"),
        ("/detokenize", {"tokens": [2**62]}, "tokens"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_engines_refusals_say_one_thing_about_one_field(
    http: httpx.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    error = refused(http.post(path, json=body))
    if param is not None:
        assert str(error["param"]).startswith(param), error
    assert "\n" not in str(error["message"]).strip()


def test_null_for_truncation_is_nothing(http: httpx.Client) -> None:
    body = {"input": "a", "max_output_tokens": 2, "truncation": None}
    assert http.post("/v1/responses", json=body).status_code == 200


def test_a_file_is_never_read(http: httpx.Client) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"$ref": "file:///etc/passwd"}}}
    for path, body in [
        (CHAT, MESSAGES | {"chat_template": "/etc/passwd"}),
        (CHAT, MESSAGES | {"response_format": schema}),
        (CHAT, MESSAGES | {"model": "/etc/passwd"}),
        (CHAT, MESSAGES | {"model": "../../etc/passwd"}),
        (COMPLETIONS, PROMPT | {"lora_request": {"lora_path": "/etc"}}),
        ("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": "/etc"}),
    ]:
        answer = http.post(path, json=body)
        assert "root:" not in answer.text
        if answer.status_code == 200:
            assert path == CHAT
            assert "response_format" in body  # another file's schema is an empty one: nothing is resolved
        else:
            assert answer.status_code in (400, 404)
