"""A server of its own that logs JSON and sends its traces to a collector."""

from __future__ import annotations

import contextlib
import json
import signal
from pathlib import Path

import httpx
import pytest

from bundle.manifest import Manifest
from tests.stand_ins.live_server import started
from tests.stand_ins.otlp_receiver import receiving

MARKER = "zebra-finch-4711"


@pytest.mark.slow
def test_json_lines_and_traces_of_a_running_service(
    demo_bundle: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    messages = [{"role": "user", "content": MARKER}]
    bodies = {
        "/v1/chat/completions": {"messages": messages, "max_tokens": 4, "stream": True},
        "/v1/completions": {"prompt": [MARKER, "What is 17 times 24?"], "max_tokens": 4},
        "/v1/responses": {"input": MARKER, "max_output_tokens": 4, "stream": True},
        "/v1/messages": {"messages": messages, "max_tokens": MARKER},
        "/tokenize": {"prompt": MARKER},
    }
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        options = ["--log-format", "json", "--otlp-endpoint", receiver.url]
        of_engine = ["--", "--otlp-traces-endpoint", f"{receiver.url}/v1/traces"]
        live = stack.enter_context(started(demo_bundle, tmp_path, *options, *of_engine))
        live.wait_until_ready()
        with httpx.Client(base_url=live.url, timeout=60) as client:
            for path, body in bodies.items():
                client.post(path, json=body, headers={"x-request-id": path})
            client.post("/v1/completions", content=b'{"prompt": "' + MARKER.encode())
            client.get("/nowhere")
        live.process.send_signal(signal.SIGTERM)
        assert live.exit_code() == 0
        said = live.err.read_text()
        assert live.out.read_text() == ""
        assert MARKER not in said
        lines = [json.loads(line) for line in said.splitlines()]
        assert any(line["message"].startswith("ready after") for line in lines)
        requests = {line["request_id"]: line for line in lines if line["logger"] == "service.requests"}
        assert len(requests) == len(bodies) + 2
        ours = [span for span in receiver.spans if span.kind == 2 and span.name != "llm_request"]
        assert {span.attributes["http.route"] for span in ours} == set(bodies)
        by_id = {(span.trace_id, span.span_id): span for span in ours}
        servers = {path: by_id[requests[path]["trace_id"], requests[path]["span_id"]] for path in bodies}
        names = set(manifest.label_order)
        for path in bodies:
            line, span = requests[path], servers[path]
            assert span.attributes["http.route"] == path
            assert line["expert"] == span.attributes["gen_ai.response.model"]
            assert set(line["expert"].split(",")) <= names
            assert span.attributes["gen_ai.request.model"] == "auto"
            below = [child.name for child in receiver.below(span)]
            assert below[0] == "route"
            assert {f"generate {expert}" for expert in line["expert"].split(",")} == set(below[1:])
            assert line.get("completion_tokens") == span.attributes.get("gen_ai.usage.output_tokens")
        assert requests["/v1/chat/completions"]["completion_tokens"] == 4
        assert requests["/v1/responses"]["completion_tokens"] == 4
        assert servers["/v1/messages"].attributes["error.type"] == "400"
        assert MARKER.encode() not in b"".join(receiver.requests)
        generations = {span.span_id for span in receiver.spans if span.name.startswith("generate ")}
        engines = [span for span in receiver.spans if span.name == "llm_request"]
        below = [span for span in engines if span.parent_id in generations]
        assert len(below) == 4
        assert not any(span.parent_id for span in engines if span not in below)  # the fingerprints' own
