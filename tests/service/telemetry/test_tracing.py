"""The spans of a request, as a collector gets them."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from service.errors import UsageError
from service.telemetry.tracing import trace_protocol, tracing
from tests.stand_ins.dispatch_setup import Setup
from tests.stand_ins.live_server import free_port
from tests.stand_ins.otlp_receiver import receiving, receiving_grpc

MARKER = "zebra-finch-4711"
SERVER, INTERNAL = 2, 1


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


async def test_a_routed_request_is_a_span_with_one_for_routing_and_one_for_generation() -> None:
    with receiving() as receiver:
        with tracing(receiver.url) as tracer:
            setup = Setup(tracer=tracer)
            await setup.post(
                "/v1/completions", {"prompt": f"1 {MARKER}", "stream": True}, headers={"x-request-id": "mine"}
            )
        assert receiver.paths == {"/v1/traces"}
        (request,) = [span for span in receiver.spans if span.kind == SERVER]
        assert request.name == "text_completion auto"
        assert request.parent_id == ""
        wanted = {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.provider.name": "gradientspace",
            "gen_ai.request.model": "auto",
            "gen_ai.response.model": "expert-1",
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 1,
            "http.response.status_code": 200,
            "http.route": "/v1/completions",
            "gradientspace.request_id": "mine",
        }
        assert {name: request.attributes.get(name) for name in wanted} == wanted
        assert "error.type" not in request.attributes
        assert request.resource["service.name"] == "gradientspace"
        route, generate = receiver.below(request)
        assert (route.name, generate.name) == ("route", "generate expert-1")
        assert request.start <= route.start <= route.end <= generate.start + 1_000_000
        assert generate.start <= generate.end <= request.end
        assert route.attributes["gradientspace.expert"] == ["expert-1"]
        assert route.attributes["gradientspace.router_ms"] == pytest.approx(4)
        assert route.attributes["gradientspace.confidence"] == [pytest.approx(0.8)]
        assert generate.attributes["gen_ai.response.model"] == "expert-1"
        assert generate.attributes["gradientspace.model"] == setup.names.experts[1].engine_name
        assert generate.attributes["gradientspace.time_to_first_token_ms"] > 0
        assert {span.trace_id for span in receiver.spans} == {request.trace_id}
        assert MARKER.encode() not in b"".join(receiver.requests)


async def test_spans_go_over_grpc_where_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with receiving_grpc() as receiver:
        with tracing(receiver.url) as tracer:
            await Setup(tracer=tracer).post("/v1/completions", {"prompt": "1 a"})
        (request,) = [span for span in receiver.spans if span.kind == SERVER]
        assert request.attributes["gen_ai.response.model"] == "expert-1"
        assert [span.name for span in receiver.below(request)] == ["route", "generate expert-1"]


async def test_a_prompt_list_has_one_generation_for_each_expert_and_a_named_request_no_routing() -> None:
    with receiving() as receiver:
        with tracing(receiver.url) as tracer:
            setup = Setup(tracer=tracer)
            await setup.post("/v1/completions", {"prompt": ["1 a", "0 b", "1 c"]})
            await setup.post("/v1/completions", {"model": "expert-2", "prompt": "0 a"})
        split, named = [span for span in receiver.spans if span.kind == SERVER]
        assert split.attributes["gen_ai.response.model"] == "expert-1,expert-0"
        assert split.attributes["gen_ai.usage.input_tokens"] == 30
        below = {span.name: span.attributes for span in receiver.below(split)}
        assert set(below) == {"route", "generate expert-1", "generate expert-0"}
        assert below["generate expert-1"]["gradientspace.prompts"] == 2
        assert below["generate expert-1"]["gen_ai.usage.input_tokens"] == 20
        assert below["generate expert-0"]["gen_ai.usage.input_tokens"] == 10
        assert named.attributes["gen_ai.request.model"] == "expert-2"
        assert [span.name for span in receiver.below(named)] == ["generate expert-2"]


async def test_the_clients_trace_goes_on_through_us_into_the_engine() -> None:
    trace_id, client = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    sent = {"traceparent": f"00-{trace_id}-{client}-01", "tracestate": "vendor=1"}
    with receiving() as receiver:
        with tracing(receiver.url) as tracer:
            setup = Setup(tracer=tracer)
            await setup.post("/v1/completions", {"prompt": "1 a"}, headers=sent)
            unsampled = {"traceparent": f"00-{trace_id}-{client}-00"}
            await setup.post("/v1/completions", {"prompt": "1 a"}, headers=unsampled)
            await setup.post("/v1/completions", {"prompt": "1 a"}, headers={"traceparent": "no such thing"})
        first, second = [span for span in receiver.spans if span.kind == SERVER]
        assert (first.trace_id, first.parent_id) == (trace_id, client)
        assert second.trace_id != trace_id
        assert second.parent_id == ""
        generation = next(s for s in receiver.below(first) if s.name.startswith("generate"))
        of_engine = dict(setup.inner.scopes[0]["headers"])
        assert of_engine[b"traceparent"].decode() == f"00-{trace_id}-{generation.span_id}-01"
        assert of_engine[b"tracestate"] == b"vendor=1"


@pytest.mark.parametrize(
    ("body", "code", "failed"),
    [({"model": MARKER, "prompt": "1 a"}, "404", False), ({"prompt": "2 a"}, "500", True)],
)
async def test_an_error_has_its_type(body: dict[str, Any], code: str, failed: bool) -> None:
    with receiving() as receiver:
        with tracing(receiver.url) as tracer:
            setup = Setup(tracer=tracer)
            setup.inner.crash_with = RuntimeError(MARKER)
            await setup.post("/v1/completions", body)
            await setup.post("/v1/nowhere", body)
            await setup.method("GET", "/v1/completions")
        (request,) = [span for span in receiver.spans if span.kind == SERVER]
        assert request.attributes["error.type"] == code
        assert request.attributes["http.response.status_code"] == int(code)
        assert request.failed == failed
        assert MARKER.encode() not in b"".join(receiver.requests)


async def test_a_collector_that_is_not_there_disturbs_nobody() -> None:
    with tracing(f"http://127.0.0.1:{free_port()}") as tracer:
        setup = Setup(tracer=tracer)
        for _ in range(3000):  # more than the exporter's queue holds
            answer = await setup.post("/v1/completions", {"model": "expert-1", "prompt": "1 a"})
            assert answer.status_code == 200
        answered = time.monotonic()
    assert time.monotonic() - answered < 60, (
        "the end waits two seconds, not a try's ten for each of what is queued"
    )


@pytest.mark.parametrize(
    ("environ", "endpoint", "protocol"),
    [
        ({}, None, None),
        ({}, "http://h:4318", "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:4318"}, None, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4317"}, None, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "http://h:4317", "grpc"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, None, None),
        ({"OTEL_SDK_DISABLED": "true"}, "http://h:4318", None),
        ({"OTEL_TRACES_EXPORTER": "none"}, "http://h:4318", None),
    ],
)
def test_opentelemetrys_own_variables_hold(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], endpoint: str | None, protocol: str | None
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert trace_protocol(endpoint) == protocol


def test_an_unknown_protocol_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(UsageError, match=r"'http/json'. Set it to http/protobuf or grpc"):
        trace_protocol("http://h:4318")


async def test_the_environment_alone_is_enough_and_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "answers")
        with tracing(None) as tracer:
            await Setup(tracer=tracer).post("/v1/completions", {"prompt": "1 a"})
        assert receiver.paths == {"/v1/traces"}
        assert {span.resource["service.name"] for span in receiver.spans} == {"answers"}


def test_nothing_of_opentelemetry_is_imported_where_nothing_is_configured() -> None:
    code = (
        "import sys, service.serve\n"
        "from service.telemetry.tracing import tracing\n"
        "with tracing(None) as tracer: assert tracer is None\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.stdout.strip() == "[]", done.stderr
