from __future__ import annotations

import json

import pytest

from service import headers
from service.errors import (
    BadRequestError,
    ContextLengthError,
    MethodNotAllowedError,
    NotFoundError,
    ServiceUnavailableError,
    error_response,
    reshaped,
)


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (BadRequestError("no", "n"), 400, "BadRequestError"),
        (NotFoundError("no"), 404, "NotFoundError"),
        (ServiceUnavailableError("no"), 503, "ServiceUnavailableError"),
        (KeyError("a secret"), 500, "InternalServerError"),
    ],
)
def test_the_table(error: Exception, status: int, kind: str) -> None:
    response = error_response(error)
    body = json.loads(response.body)["error"]
    assert response.status_code == status
    assert (body["type"], body["code"], body["param"]) == (kind, status, getattr(error, "param", None))
    assert "secret" not in body["message"]


def test_only_answers_of_messages_have_the_envelope() -> None:
    answer = error_response(MethodNotAllowedError("no", "POST"))
    for path, kept in (("/v1/messages", {"type", "error"}), ("/v1/chat/completions", {"error"})):
        on_path = answer.on(path)
        assert set(json.loads(on_path.body)) == kept
        assert on_path.headers["content-length"] == str(len(on_path.body))
        assert on_path.headers["allow"] == "POST"


def test_a_prompt_that_is_too_long_has_a_code_of_its_own() -> None:
    answer = error_response(ContextLengthError("prompt is too long", "prompt"))
    assert answer.status_code == 400
    assert answer.error["error"]["code"] == "context_length_exceeded"


def test_an_anthropic_error_gets_the_missing_keys_and_keeps_its_own() -> None:
    given = {"type": "error", "error": {"type": "NotFoundError", "message": "gone"}}
    assert reshaped(404, json.dumps(given).encode()) == {
        "error": {"message": "gone", "type": "NotFoundError", "param": None, "code": 404},
    }


@pytest.mark.parametrize("body", [b"Internal Server Error", b"", b"null", b'{"detail": 3}'])
def test_what_is_no_error_body_becomes_one(body: bytes) -> None:
    error = reshaped(500, body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == 500
    assert error["message"]


def test_a_failure_of_the_engine_is_for_the_log() -> None:
    given = {"error": {"message": "'int' object has no attribute 'get'", "type": "X", "code": 500}}
    error = reshaped(500, json.dumps(given).encode())["error"]
    assert error["message"] == "Internal error; the service's log says more"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("logprobs must be set. (parameter=logprobs, value=[1,\n2])", "logprobs must be set."),
        (
            "8 validation errors for ValidatorIterator\n0.TextParam.text\n  Field required [type=missing, in]",
            "The request has not the form that this endpoint takes: Field required",
        ),
        ("too long" * 1000, ("too long" * 1000)[:1000]),
    ],
)
def test_what_only_vllms_developers_understand_is_taken_out(said: str, told: str) -> None:
    error = reshaped(400, json.dumps({"error": {"message": said}}).encode())["error"]
    assert error["message"] == told


def test_unauthorized_as_vllm_writes_it() -> None:
    error = reshaped(401, b'{"error": "Unauthorized"}')["error"]
    assert (error["message"], error["code"]) == ("Unauthorized", 401)


def test_the_header_names_are_the_contract() -> None:
    assert headers.ON_EVERY_ANSWER == ("x-request-id", "x-gradientspace-bundle")
    assert headers.ON_EVERY_DECISION == (
        "x-gradientspace-expert",
        "x-gradientspace-confidence",
        "x-gradientspace-reason",
        "x-gradientspace-router-ms",
    )
