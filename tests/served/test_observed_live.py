"""Metrics, logs and dashboards of a running service."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bundle.manifest import Manifest
from bundle.read import Bundle
from service.telemetry.metrics import Metrics
from tests.stand_ins.live_server import LiveServer, free_port
from tests.stand_ins.promql import (
    PROMETHEUS,
    alerts,
    dashboard_expressions,
    debian,
    filled_in,
    metrics_of,
    panels,
    rules,
)

MARKER = "zebra-finch-4711"
ALLOWED_LABELS = {"expert", "endpoint", "reason", "code", "kind", "bundle", "le", "result", "by"}
ABOUT_THE_BUNDLE = {"digest", "base", "experts", "created"}  # of `gradientspace_bundle_info`, one series
QUICK_SECONDS = 300


def samples(http: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(http: httpx.Client, name: str, **labels: str) -> float:
    return samples(http).get((name, frozenset(labels.items())), 0.0)


@pytest.fixture(scope="module")
def traffic(http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]) -> None:
    """A few requests of every kind."""
    for name, prompt in prompt_for.items():
        messages = [{"role": "user", "content": prompt}]
        for _ in range(2):
            http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2})
            http.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 2, "stream": True})
        http.post("/v1/completions", json={"model": name, "prompt": prompt, "max_tokens": 2})
    http.post("/v1/completions", json={"prompt": list(prompt_for.values()), "max_tokens": 2})
    http.post("/v1/completions", json={"model": "nobody", "prompt": "x"})


def test_ours_and_vllms_families_stand_on_one_page(http: httpx.Client, traffic: None) -> None:
    families = {family.name: family for family in text_string_to_metric_families(http.get("/metrics").text)}
    for name in (
        *("vllm:lora_requests_info", "vllm:num_requests_running", "vllm:num_requests_waiting"),
        *("vllm:kv_cache_usage_perc", "vllm:prompt_tokens", "vllm:generation_tokens"),
        *("vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds", "vllm:request_success"),
    ):
        assert families[name].samples, name
    ours = {name: family for name, family in families.items() if name.startswith("gradientspace_")}
    for name in (
        *("requests", "request_seconds", "time_to_first_token_seconds", "tokens", "router_seconds"),
        *("router_confidence", "fallbacks", "in_flight", "rejected", "routed_texts"),
        *("expert_training_share", "engine_up", "ready"),
    ):
        assert f"gradientspace_{name}" in ours
    labels = {label for family in ours.values() for sample in family.samples for label in sample.labels}
    assert labels <= ALLOWED_LABELS | ABOUT_THE_BUNDLE
    assert value(http, "gradientspace_engine_up") == value(http, "gradientspace_ready") == 1


def test_the_training_shares_are_the_manifests(http: httpx.Client, bundle: Bundle) -> None:
    for expert in bundle.manifest.experts:
        labels = {"bundle": bundle.digest, "expert": expert.name}
        assert value(http, "gradientspace_expert_training_share", **labels) == expert.share


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "PROMPT", "max_tokens": 5}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "PROMPT"}], "max_tokens": 5}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "PROMPT"}], "max_tokens": 5}),
        ("/v1/responses", {"input": "PROMPT", "max_output_tokens": 5}),
    ],
)
def test_tokens_are_those_that_the_engine_counted(
    http: httpx.Client, prompt_for: dict[str, str], path: str, body: dict[str, Any], stream: bool
) -> None:
    expert, prompt = next(iter(prompt_for.items()))
    asked = json.loads(json.dumps(body).replace("PROMPT", json.dumps(prompt)[1:-1]))

    def counted() -> tuple[float, ...]:
        return tuple(
            value(http, "gradientspace_tokens_total", expert=expert, kind=kind)
            for kind in ("prompt", "completion")
        )

    before = counted()
    usage = http.post(path, json=asked | {"temperature": 0}).json()["usage"]
    names = (
        ("input_tokens", "output_tokens")
        if "input_tokens" in usage
        else ("prompt_tokens", "completion_tokens")
    )
    answer = http.post(path, json=asked | {"temperature": 0, "stream": stream})
    if stream and path.endswith("completions"):
        assert '"usage"' not in answer.text, "a client that asked for no usage gets none"
    expected = tuple(2 * usage[name] for name in names)  # of both answers, which are the same
    deadline = time.monotonic() + QUICK_SECONDS
    while True:  # a request is counted when its last byte is out, which may be a moment later
        moved = tuple(after - earlier for after, earlier in zip(counted(), before, strict=True))
        if moved == expected or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    assert moved == expected


def test_odd_names_paths_and_methods_make_no_new_series(server: LiveServer, http: httpx.Client) -> None:
    async def flood(count: int) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=600) as client:
            for start in range(0, count, 20):
                asked = []
                for odd in (uuid.uuid4().hex for _ in range(start, start + 20)):
                    asked += [
                        client.post("/v1/completions", json={"model": odd, "prompt": "x"}),
                        client.post(
                            f"/v1/{odd}?x={odd}", json={"prompt": "x"}, headers={"x-request-id": odd}
                        ),
                        client.request(f"X{odd[:8].upper()}", "/v1/completions"),
                    ]
                await asyncio.gather(*asked)

    asyncio.run(flood(20))
    before = set(samples(http))
    asyncio.run(flood(200))
    new = set(samples(http)) - before
    assert {name for name, _ in new} == set()


def test_no_text_of_a_request_is_logged(server: LiveServer, http: httpx.Client) -> None:
    messages = [{"role": "user", "content": MARKER}]
    chat = "/v1/chat/completions"
    for path, body in [
        (chat, {"messages": messages, "max_tokens": 2}),
        (chat, {"messages": messages, "max_tokens": 2, "stream": True}),
        (chat, {"messages": messages, "max_tokens": MARKER, "response_format": {"type": MARKER}}),
        (chat, {"messages": [{"role": MARKER, "content": {MARKER: 1}}], MARKER: 1}),
        (chat, {"messages": messages, "chat_template": "{% " + MARKER}),
        (chat, {"messages": messages, "structured_outputs": {"regex": f"({MARKER}"}}),
        (chat, {"messages": messages, "max_tokens": 10_000_000}),
        (chat, {"messages": [{"role": "user", "content": f"{MARKER} " * 20_000}]}),
        (chat, {"model": MARKER, "messages": messages}),
        ("/v1/completions", {"prompt": [MARKER, "What is 17 times 24?"], "max_tokens": 2}),
        ("/v1/completions", {"prompt": {MARKER: 1}}),
        ("/v1/responses", {"input": MARKER, "max_output_tokens": 2}),
        ("/v1/responses", {"input": [{"role": MARKER}], "tools": MARKER}),
        ("/v1/messages", {"messages": messages, "max_tokens": MARKER}),
        ("/v1/route", {"input": {MARKER: 1}}),
        ("/v1/route", {"input": [MARKER]}),
        ("/tokenize", {"prompt": MARKER}),
    ]:
        http.post(path, json=body, headers={"x-request-id": "in-the-log-7"})
    http.post(chat, content=b'{"messages": "' + MARKER.encode())
    said = server.out.read_text() + server.err.read_text()
    assert said.count("[in-the-log-7]") == 17, "every request has its line"
    assert [line for line in said.splitlines() if MARKER in line] == []


def test_dashboard_and_rules_name_only_metrics_that_exist(http: httpx.Client, traffic: None) -> None:
    page = http.get("/metrics").text
    there = {line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")}
    there |= {name for name, _ in samples(http)} | {"up"}
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    expressions = [*dashboard_expressions(), *(rule["expr"] for rule in rules())]
    named = {name for expression in expressions for name in metrics_of(expression)}
    assert len(named) > 12
    assert named - there - recorded == set()


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert answer["status"] == "success", answer
        return [found for found in answer["data"]["result"] if found["value"][1] != "NaN"]

    def rules(self) -> list[dict[str, Any]]:
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def prometheus(server: LiveServer, tmp_path: Path) -> Iterator[Prometheus]:
    """The real Prometheus with the shipped configuration, only its target and its intervals changed."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(PROMETHEUS / pattern) for pattern in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{server.port}"]}]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    command = [
        debian("prometheus"),
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + QUICK_SECONDS
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


def test_the_real_prometheus_answers_with_latencies_per_expert(
    prometheus: Prometheus, http: httpx.Client, prompt_for: dict[str, str]
) -> None:
    (latency,) = [panel for panel in panels() if panel["title"].startswith("Latency per expert")]
    expressions = [filled_in(target["expr"], "30s") for target in latency["targets"]]
    assert [expression[19:24] for expression in expressions] == ["0.5, ", "0.95,"]
    deadline = time.monotonic() + QUICK_SECONDS
    found: list[dict[str, float]] = [{}]
    while not all(set(prompt_for) <= set(quantile) for quantile in found):
        assert time.monotonic() < deadline, found
        for prompt in prompt_for.values():
            http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2})
        time.sleep(0.5)
        found = [
            {one["metric"]["expert"]: float(one["value"][1]) for one in prometheus.query(expression)}
            for expression in expressions
        ]
    half, most = found
    for expert in prompt_for:
        assert 0 < half[expert] <= most[expert] < 60
    loaded = prometheus.rules()
    assert {rule["name"] for rule in loaded} >= set(alerts())
    assert {rule["name"]: rule.get("lastError") for rule in loaded if rule["health"] == "err"} == {}
    (state,) = prometheus.query("gradientspace_engine_up")
    assert state["value"][1] == "1"
    assert prometheus.query('ALERTS{alertname=~"GradientSpace(Down|EngineDown|NotReady)"}') == []


def test_our_families_pass_promtools_own_lint(http: httpx.Client, traffic: None) -> None:
    page = http.get("/metrics").text.splitlines()
    ours = [line for line in page if "gradientspace_" in line.split("{")[0]]
    done = subprocess.run(
        [debian("promtool"), "check", "metrics"],
        **{"input": "\n".join(ours) + "\n", "capture_output": True, "text": True, "timeout": 60},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len([line for line in ours if line.startswith("# TYPE")]) >= len(vars(Metrics))
