"""What is counted, without an engine."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import CollectorRegistry

from router.threaded import Routed
from service.telemetry.metrics import Metrics
from tests.stand_ins.dispatch_setup import Setup, WordRouter, small_manifest


def series(registry: CollectorRegistry, family: str = "") -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (sample.name, frozenset(sample.labels.items()))
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name.startswith(f"gradientspace_{family}")
    }


async def test_tokens_are_counted_by_expert_whether_or_not_a_stream_was_asked_for_its_usage() -> None:
    setup = Setup()
    for extra in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": False}}):
        before = len(setup.inner.bodies)
        await setup.post("/v1/completions", {"prompt": ["1 a", "1 b"], "n": 2} | extra)
        sent = setup.inner.bodies[before]
        assert {key: sent.get(key) for key in extra} == extra, "nothing is added to the client's options"
    assert setup.count("tokens_total", expert="expert-1", kind="prompt") == 3 * 20
    assert setup.count("tokens_total", expert="expert-1", kind="completion") == 3 * 4
    await setup.post("/v1/completions", {"prompt": ["1 a", "0 b", "1 c"]})
    assert setup.count("tokens_total", expert="expert-1", kind="prompt") == 3 * 20 + 20
    assert setup.count("tokens_total", expert="expert-0", kind="prompt") == 10


async def test_an_answer_that_was_not_finished_has_no_tokens() -> None:
    setup = Setup()
    setup.inner.fail_for = "expert-1"
    await setup.post("/v1/completions", {"prompt": "1 a"})
    assert series(setup.registry, "tokens") == set()


async def test_the_live_share_is_what_the_router_chooses_also_where_the_fallback_answers() -> None:
    setup = Setup(threshold=0.9)
    await setup.post("/v1/completions", {"prompt": ["1 a", "1 b", "2 c"]})
    await setup.post("/v1/completions", {"model": "expert-0", "prompt": "0 a"})
    found = {k: setup.count("routed_texts_total", bundle="", expert=f"expert-{k}") for k in range(3)}
    assert found == {0: 0, 1: 2, 2: 1}
    assert len(series(setup.registry, "routed_texts_total")) == 3, "an expert nobody asks for is there, as 0"
    assert setup.count("expert_training_share", bundle="", expert="expert-0") == 0.3


async def test_odd_names_paths_and_methods_make_no_new_series() -> None:
    setup = Setup()

    async def ask(odd: str) -> None:
        mine = {"x-request-id": odd, "user-agent": odd}
        await setup.post("/v1/completions", {"model": odd, "prompt": "1 a"}, headers=mine)
        await setup.post("/v1/completions", {"model": [odd], "prompt": "1 a"}, headers=mine)
        await setup.post("/v1/completions", {"model": "auto", "prompt": "1 a"}, headers=mine)
        await setup.post(f"/v1/{odd}", {"prompt": "1 a"}, headers=mine)
        await setup.method(odd.upper(), "/v1/completions")

    await ask("first")
    before = series(setup.registry)
    for _ in range(200):
        await ask(uuid.uuid4().hex)
    assert series(setup.registry) == before
    labels = {"expert": "none", "endpoint": "/v1/completions", "reason": "none", "code": "404"}
    assert setup.count("requests_total", **labels) == 201


def manifest(shares: dict[str, float], seal: str) -> Any:
    template = small_manifest()
    experts = tuple(
        template.experts[0].model_copy(update={"name": name, "share": share})
        for name, share in shares.items()
    )
    return template.model_copy(update={"experts": experts, "label_order": tuple(shares), "seal": seal * 64})


def test_after_a_switch_nothing_of_the_old_experts_is_left() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    old, new = manifest({"expert-0": 0.4, "expert-1": 0.6}, "a"), manifest({"expert-0": 1.0}, "b")
    metrics.serve_bundle(old)

    def answered_by(expert: str, bundle: str) -> None:
        metrics.requests.labels(expert, "/v1/completions", "routed", "200").inc()
        metrics.request_seconds.labels(expert, "/v1/completions").observe(1)
        metrics.tokens.labels(expert, "prompt").inc(7)
        metrics.routed_texts.labels(bundle, expert).inc()

    for expert in ("expert-0", "expert-1", "tiny", "fallback", "none"):
        answered_by(expert, old.digest)
    for late in (False, True):
        if late:  # an answer that was under way brings its expert back
            answered_by("expert-1", old.digest)
            assert any("expert-1" in dict(labels).values() for _, labels in series(registry))
        metrics.serve_bundle(new)
        labels = [dict(found) for _, found in series(registry)]
        assert {found["expert"] for found in labels if "expert" in found} == {
            *("expert-0", "tiny", "fallback", "none")
        }
        assert {found["bundle"] for found in labels if "bundle" in found} == {new.digest}
    share = {"bundle": new.digest, "expert": "expert-0"}
    assert registry.get_sample_value("gradientspace_expert_training_share", share) == 1.0
    assert registry.get_sample_value("gradientspace_routed_texts_total", share) == 0
    kept = {"expert": "expert-0", "endpoint": "/v1/completions", "reason": "routed", "code": "200"}
    assert registry.get_sample_value("gradientspace_requests_total", kept) == 1


def test_the_engine_and_readiness_are_asked_when_the_page_is_read() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    state = {"engine": True, "ready": True}
    metrics.watch(lambda: state["engine"], lambda: state["ready"])
    for engine, ready in [(True, True), (True, False), (False, False)]:
        state |= {"engine": engine, "ready": ready}
        assert registry.get_sample_value("gradientspace_engine_up") == engine
        assert registry.get_sample_value("gradientspace_ready") == ready


async def test_what_answered_a_text_is_counted() -> None:
    class Mixed(WordRouter):
        async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
            found = await super().route(texts)
            return replace(found, remembered=1, linear=2)

    setup = Setup(Mixed())
    await setup.post("/v1/completions", {"prompt": ["1 a", "1 b", "2 c", "0 d"]})
    await setup.post("/v1/completions", {"model": "expert-0", "prompt": "0 a"})
    found = {by: setup.count("router_answers_total", by=by) for by in ("memory", "linear", "router")}
    assert found == {"memory": 1, "linear": 2, "router": 1}
