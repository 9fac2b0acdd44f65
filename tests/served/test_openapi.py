"""The OpenAPI document: what it lists is what is served, and requests made from it never fail the service."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service import headers
from service.request.endpoints import ENDPOINTS
from service.request.refused_fields import REFUSED
from tests.stand_ins.live_server import LiveServer

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
TELLS_TOO_MUCH = re.compile(r"Traceback|File \"|site-packages|\bvllm\.|<class")
_SHORT = {  # a random request is to cost little: the fields that say how long an answer may be
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    answer = http.get("/openapi.json")
    assert answer.status_code == 200
    return answer.json()


def test_it_lists_what_is_served_and_nothing_else(document: dict[str, Any]) -> None:
    own = {
        "/v1/models",
        "/v1/models/{name}",
        "/v1/experts",
        "/v1/route",
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    assert own | set(ENDPOINTS) <= set(document["paths"])
    strange = {path for path in document["paths"] if path not in own | set(ENDPOINTS)}
    assert not {path for path in strange if not path.startswith("/admin/")}, strange
    assert document["info"]["title"] == "GradientSpace"


def test_every_operation_has_the_error_shape_its_headers_and_its_security(document: dict[str, Any]) -> None:
    shape = document["components"]["schemas"]["Error"]["properties"]["error"]
    assert set(shape["properties"]) == set(shape["required"]) == {"message", "type", "param", "code"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"500", "503"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
            for code, answer in operation["responses"].items():
                assert set(headers.ON_EVERY_ANSWER) <= set(answer["headers"])
                if not code.startswith("2"):
                    (content,) = answer["content"].values()
                    assert content["schema"] == {"$ref": "#/components/schemas/Error"}
            if path in ENDPOINTS:
                assert {"400", "404", "413", "415", "429"} <= set(operation["responses"])
                assert set(headers.ON_EVERY_DECISION) <= set(operation["responses"]["200"]["headers"])
            assert ("security" in operation) == (not path.startswith("/health"))


def test_requests_are_as_the_engine_takes_them_less_what_is_refused(document: dict[str, Any]) -> None:
    for path in ENDPOINTS:
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        for reference in [one["$ref"] for one in body.get("anyOf", [body])]:
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
            assert not REFUSED.keys() & schema["properties"].keys()
            assert "model" not in schema["required"]
            assert schema["properties"]["model"]["default"] == "auto"
    chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"temperature", "tools", "response_format", "logprobs", "seed"} <= chat.keys()


def test_no_schema_is_left_over_and_none_is_missing(document: dict[str, Any]) -> None:
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', httpx.Response(200, json=document).text))
    assert named == set(document["components"]["schemas"])


def operations(server: LiveServer) -> Iterator[Any]:
    loaded = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    for result in loaded.get_all_operations():
        operation = result.ok()
        if not operation.path.startswith("/admin/"):
            yield operation


def try_out(server: LiveServer, examples: int) -> int:
    """Send so many valid and as many invalid requests to every operation; return how many were sent."""
    sent = 0
    settings = hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for operation in operations(server):
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            if mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET":
                continue

            def send(case: Any) -> None:
                nonlocal sent
                sent += 1
                if isinstance(case.body, dict) and case.path in _SHORT:
                    case.body.setdefault(_SHORT[case.path], 2)
                    for name in (_SHORT[case.path], "max_completion_tokens", "n"):
                        value = case.body.get(name)
                        if isinstance(value, int) and 4 < value < 10**6:
                            case.body[name] = 4
                answer = case.call(timeout=120)
                case.validate_response(answer, checks=CHECKS)
                if answer.status_code >= 400:
                    assert not TELLS_TOO_MUCH.search(answer.text), answer.text

            try:
                hypothesis.given(operation.as_strategy(generation_mode=mode))(settings(send))()
            except hypothesis.errors.Unsatisfiable:
                assert mode is GenerationMode.NEGATIVE, operation.label  # nothing can be wrong with no body
    return sent


def test_requests_made_from_the_document(server: LiveServer) -> None:
    assert try_out(server, examples=4) > 40


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_many_requests_made_from_the_document(server: LiveServer) -> None:
    assert try_out(server, examples=100) > 1_000
