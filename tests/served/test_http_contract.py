"""Headers, errors, health, metrics and what is not served, over the wire."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from bundle.manifest import Manifest
from bundle.read import Bundle
from service import headers
from tests.stand_ins.http_answers import check_error, samples
from tests.stand_ins.live_server import LiveServer
from tests.stand_ins.vllm_routes import REFUSED


def test_every_route_that_vllm_has_and_we_do_not_serve_is_404_in_our_shape(http: httpx.Client) -> None:
    elsewhere = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/embeddings", "/nowhere"]
    for path in [*sorted(REFUSED), *elsewhere]:
        for method in ("GET", "POST"):
            answer = http.request(method, path.replace("{response_id}", "resp_1"), json={})
            if path in ("/v1/models", "/health", "/metrics", "/openapi.json"):
                continue  # ours, under the same name
            error = check_error(answer, 404, "NotFoundError")
            assert path.split("{")[0] in str(error["message"])


def test_known_paths_with_another_method(http: httpx.Client) -> None:
    for method, path in [("GET", "/v1/completions"), ("GET", "/v1/route"), ("POST", "/v1/models")]:
        answer = http.request(method, path)
        check_error(answer, 405, "MethodNotAllowedError")
        assert method not in answer.headers["allow"].split(", ")


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b'"text"', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_body_that_is_no_json_object(http: httpx.Client, body: bytes) -> None:
    sent = {"content": body, "headers": {"content-type": "application/json"}}
    check_error(http.post("/v1/chat/completions", **sent), 400, "BadRequestError")
    check_error(http.post("/v1/route", **sent), 400, "BadRequestError")


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"messages": "hello"}, "messages"),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"model": 3, "messages": [{"role": "user", "content": "x"}]}, "model"),
        ("/v1/completions", {}, "prompt"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, "prompt"),
        ("/v1/responses", {}, "input"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/v1/route", {}, "input"),
    ],
)
def test_requests_without_a_text_to_route(http: httpx.Client, path: str, body: dict, param: str) -> None:
    assert check_error(http.post(path, json=body), 400, "BadRequestError")["param"] == param


def test_the_engines_own_errors_keep_the_shape_and_the_decision(
    http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    expert = manifest.experts[-1]
    prompt = prompt_for[expert.name]
    messages = [{"role": "user", "content": prompt}]
    for path, body in [
        ("/v1/completions", {"prompt": prompt, "temperature": -1}),
        ("/v1/completions", {"prompt": prompt, "temperature": -1, "stream": True}),
        ("/v1/chat/completions", {"messages": messages, "temperature": -1}),
        ("/v1/chat/completions", {"model": expert.name, "messages": messages, "temperature": -1}),
        ("/v1/messages", {"messages": messages, "max_tokens": 5, "temperature": -1}),
    ]:
        answer = http.post(path, json=body)
        check_error(answer, 400, "BadRequestError")
        assert answer.headers[headers.EXPERT] == expert.name
        assert answer.headers[headers.REASON] in ("routed", "named")


def test_what_goes_beyond_the_models_context_is_refused_before_it_is_routed(http: httpx.Client) -> None:
    too_long = "and so on " * 20_000
    for path, body, param in [
        ("/v1/completions", {"prompt": "x", "max_tokens": 10_000_000}, "max_tokens"),
        ("/v1/completions", {"prompt": too_long}, "prompt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": too_long}]}, "messages"),
        ("/v1/responses", {"input": too_long}, "input"),
        ("/v1/completions", {"prompt": ["x"] * 129}, "prompt"),
        ("/v1/route", {"input": ["x"] * 129}, "input"),
    ]:
        answer = http.post(path, json=body)
        code = "context_length_exceeded" if "and so on" in str(body) else 400
        assert check_error(answer, 400, "BadRequestError", code)["param"] == param
        assert headers.EXPERT not in answer.headers


def test_a_body_of_10_mb_is_refused(http: httpx.Client) -> None:
    ten = b'{"prompt": "' + b"x" * 10_000_000

    def unannounced() -> Iterator[bytes]:
        for start in range(0, len(ten), 65536):
            yield ten[start : start + 65536]

    for path in ("/v1/completions", "/v1/route"):
        for content in (ten, unannounced()):
            answer = http.post(path, content=content, headers={"content-type": "application/json"})
            assert check_error(answer, 400, "BadRequestError")["param"] == "body"
    assert http.get("/health/ready").status_code == 200


def test_every_decision_header_on_answers_streams_and_errors(
    http: httpx.Client, bundle: Bundle, prompt_for: dict[str, str]
) -> None:
    for name, prompt in prompt_for.items():
        for extra in ({}, {"stream": True}, {"temperature": -1}, {"model": name}):
            body = {"prompt": prompt, "max_tokens": 1} | extra
            answer = http.post("/v1/completions", json=body, headers={"x-request-id": "mine-7"})
            assert answer.headers[headers.REQUEST_ID] == "mine-7"
            assert answer.headers[headers.BUNDLE] == bundle.digest
            assert answer.headers[headers.EXPERT] == name
            assert answer.headers[headers.REASON] == ("named" if "model" in extra else "routed")
            confidence = float(answer.headers[headers.CONFIDENCE])
            milliseconds = float(answer.headers[headers.ROUTER_MS])
            if "model" in extra:
                assert (confidence, milliseconds) == (1.0, 0.0)
            else:
                assert 1 / len(prompt_for) <= confidence <= 1
                assert milliseconds > 0


def test_a_request_id_is_made_where_none_fit_to_use_was_given(http: httpx.Client) -> None:
    seen = {http.get("/v1/models").headers[headers.REQUEST_ID] for _ in range(2)}
    seen.add(http.get("/v1/models", headers={"x-request-id": "x" * 500}).headers[headers.REQUEST_ID])
    assert len(seen) == 3
    assert all(len(request_id) == 32 for request_id in seen)


def test_metrics_move_with_the_right_labels(http: httpx.Client, prompt_for: dict[str, str]) -> None:
    expert, prompt = next(reversed(prompt_for.items()))
    path = "/v1/completions"
    before = samples(http)
    http.post(path, json={"prompt": prompt, "max_tokens": 2})
    http.post(path, json={"prompt": prompt, "max_tokens": 2, "stream": True})
    http.post(path, json={"model": expert, "prompt": prompt, "max_tokens": 2})
    http.post(path, json={"model": "nobody", "prompt": prompt})
    after = samples(http)

    def moved(name: str, **labels: str) -> float:
        key = (f"gradientspace_{name}", frozenset(labels.items()))
        return after.get(key, 0) - before.get(key, 0)

    of = {"expert": expert, "endpoint": path}
    assert moved("requests_total", **of, reason="routed", code="200") == 2
    assert moved("requests_total", **of, reason="named", code="200") == 1
    assert moved("requests_total", expert="none", endpoint=path, reason="none", code="404") == 1
    assert moved("request_seconds_count", **of) == 3
    assert moved("request_seconds_sum", **of) > 0
    assert moved("time_to_first_token_seconds_count", **of) == 1
    assert moved("router_seconds_count") == 2
    assert moved("router_seconds_bucket", le="+Inf") == 2
    assert moved("router_confidence_count") == 2
    assert after["gradientspace_in_flight", frozenset()] == 0
    edges = {
        float(dict(labels)["le"]) for name, labels in after if name == "gradientspace_router_seconds_bucket"
    }
    assert {0.003, 0.004, 0.005} < edges
    families = {name for name, _ in after if name.startswith("vllm:")}
    assert len(families) > 50, "vLLM's own families should be on the same page"


def test_health(http: httpx.Client) -> None:
    assert http.get("/health/live").json() == {"status": "live"}
    assert http.get("/health/ready").json() == {"status": "ready"}
    assert http.get("/health").json() == {"status": "ready"}


def test_a_dry_run_says_what_a_request_would_get(
    http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    names = list(prompt_for)
    before = samples(http)["gradientspace_router_seconds_count", frozenset()]
    listed = http.post("/v1/route", json={"input": [prompt_for[name] for name in names]}).json()["data"]
    assert [item["expert"] for item in listed] == names
    for item in listed:
        assert list(item["probabilities"]) == list(manifest.label_order)
        assert sum(item["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert item["confidence"] == max(item["probabilities"].values())
        assert item["router_ms"] > 0
    messages = [
        {"role": "user", "content": prompt_for[names[0]]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": prompt_for[names[-1]]},
    ]
    conversation = http.post("/v1/route", json={"messages": messages}).json()["data"]
    assert [item["expert"] for item in conversation] == [names[-1]]
    assert samples(http)["gradientspace_router_seconds_count", frozenset()] == before


def test_the_experts_are_those_of_the_manifest(http: httpx.Client, manifest: Manifest) -> None:
    listed = http.get("/v1/experts").json()["data"]
    assert [(e["name"], e["model"], e["rows"], e["share"], tuple(e["top_terms"])) for e in listed] == [
        (e.name, e.engine_name, e.rows, e.share, e.top_terms) for e in manifest.experts
    ]


def test_no_path_of_the_host_is_told(http: httpx.Client, bundle: Bundle, base: object) -> None:
    for path in ("/v1/models", "/v1/experts", "/health"):
        text = http.get(path).text
        assert str(bundle.folder) not in text
        assert str(base) not in text


def test_the_printed_command_works_when_pasted(server: LiveServer, manifest: Manifest) -> None:
    command = server.out.read_text().splitlines()[-1]
    assert command.startswith("curl ")
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=600, check=True)
    assert json.loads(done.stdout)["model"] in {adapter.engine_name for adapter in manifest.adapters}


def test_the_start_says_what_was_resolved(server: LiveServer, bundle: Bundle) -> None:
    told = server.err.read_text()
    for fact in (
        bundle.digest,
        bundle.manifest.base.name,
        bundle.manifest.base.dtype,
        "router loaded: 1 thread",
    ):
        assert fact in told
    assert f"{len(bundle.manifest.experts)} experts" in told
    assert "engine starting, usually 10-60 s" in told
    assert server.out.read_text().splitlines()[0].startswith("ready after")
