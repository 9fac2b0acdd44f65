"""Our own metric families, beside vLLM's on the same registry. Labels are bounded: K is small and fixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from bundle.manifest import FALLBACK_NAME
from service.request.decision import Decided
from service.telemetry.drift import Drift

if TYPE_CHECKING:
    from bundle.manifest import Manifest
    from service.telemetry.record import Generation, RequestRecord

_REQUEST_EDGES = (  # anchor:vllm, its end-to-end edges, with finer ones below for small models
    *(0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480),
)
_FIRST_TOKEN_EDGES = (  # anchor:vllm, its time-to-first-token edges
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
_ROUTER_EDGES = (  # ours: they resolve the paper's 3.9 ms, which common defaults do not
    *(0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1),
)
_CONFIDENCE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # anchor:semantic-router

UNDECIDED = "none"
"""The label of `expert` and `reason` where a request failed before anything was decided."""
_ANSWERED_BY = ("memory", "linear", "router")
_FALLBACK_REASONS = ("unfamiliar", "low_confidence", "no_gain", "router_error")


class Metrics:
    """All families of the service. A prompt list that needs several experts counts once for each."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Register the families; the default registry is the one vLLM's families are on."""
        self.requests = Counter(
            "gradientspace_requests",
            "Answered requests (code 499: stopped before the end, the client left)",
            ["expert", "endpoint", "reason", "code"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "gradientspace_request_seconds",
            "From the request's body to the answer's last byte, routing included",
            ["expert", "endpoint"],
            buckets=_REQUEST_EDGES,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "gradientspace_time_to_first_token_seconds",
            "From the request's body to the first event of a stream, routing included",
            ["expert", "endpoint"],
            buckets=_FIRST_TOKEN_EDGES,
            registry=registry,
        )
        self.tokens = Counter(
            "gradientspace_tokens",
            "Tokens of finished answers as the engine counted them, kind prompt or completion",
            ["expert", "kind"],
            registry=registry,
        )
        self.router_seconds = Histogram(
            "gradientspace_router_seconds",
            "What routing cost a request, the wait behind others included",
            buckets=_ROUTER_EDGES,
            registry=registry,
        )
        self.router_confidence = Histogram(
            "gradientspace_router_confidence",
            "The router's probability of the expert it would choose, per routed text",
            buckets=_CONFIDENCE_EDGES,
            registry=registry,
        )
        self.routed_texts = Counter(
            "gradientspace_routed_texts",
            "Texts by the expert that the router would choose, also where the fallback answers",
            ["bundle", "expert"],
            registry=registry,
        )
        self.router_answers = Counter(
            "gradientspace_router_answers",
            "Routed texts by what answered: memory (the same text was routed before), linear (a cascade's first "
            "model) or router (the rest)",
            ["by"],
            registry=registry,
        )
        for by in _ANSWERED_BY:
            self.router_answers.labels(by)
        self._drift = Drift(registry)
        self.training_share = Gauge(
            "gradientspace_expert_training_share",
            "Share of the training rows that are the expert's",
            ["bundle", "expert"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "gradientspace_in_flight", "Requests that are being answered", registry=registry
        )
        self.rejected = Counter(
            "gradientspace_rejected",
            "Requests turned away before they were routed",
            ["reason"],
            registry=registry,
        )
        self.fallbacks = Counter(
            "gradientspace_fallbacks",
            "Texts for the router that no expert answered: the fallback did, or for unfamiliar ones perhaps the base",
            ["reason"],
            registry=registry,
        )
        self.engine_up = Gauge(
            "gradientspace_engine_up",
            "1 while the engine can answer, 0 while it does not move or once it died",
            registry=registry,
        )
        self.ready = Gauge("gradientspace_ready", "1 while /health/ready says 200, else 0", registry=registry)
        for reason in _FALLBACK_REASONS:
            self.fallbacks.labels(reason)  # a counter that appears with its first event hides that event

    def serve_bundle(self, manifest: Manifest) -> None:
        """Count for this bundle from now on: call it at the start and at every switch to another.

        Series of other bundles, and of experts that this one does not have, are removed. An answer that was
        under way at the switch brings its expert's back, so call it again when the last of those is out.
        """
        shares = manifest.label_shares
        answering = {
            *(expert.name for expert in manifest.experts),
            FALLBACK_NAME,
            manifest.base.name,
            UNDECIDED,
        }
        for family in (self.requests, self.request_seconds, self.first_token_seconds, self.tokens):
            _keep_only(family, "expert", answering)
        _keep_only(self.routed_texts, "bundle", {manifest.digest})
        _keep_only(self.training_share, "bundle", {manifest.digest})
        for label, share in shares.items():
            self.routed_texts.labels(manifest.digest, label)
            self.training_share.labels(manifest.digest, label).set(share)
        self._drift.serve_bundle(manifest)

    def watch(self, engine_up: Callable[[], bool], ready: Callable[[], bool]) -> None:
        """Ask these whenever the metrics are read."""
        self.engine_up.set_function(lambda: float(engine_up()))
        self.ready.set_function(lambda: float(ready()))

    def observe_routing(self, decided: Decided, bundle: str) -> None:
        """Count what the router of a bundle (its digest) decided for a request that is going to be answered."""
        router_ran = False
        for decision in decided.decisions:
            if decision.choice is not None:
                router_ran = True
                self.router_confidence.observe(decision.confidence)
                self.routed_texts.labels(bundle, decision.choice).inc()
                self._drift.observe(bundle, decision.choice, decision.confidence)
            if decision.reason in _FALLBACK_REASONS:
                self.fallbacks.labels(decision.reason).inc()
        if router_ran:
            rest = len(decided.decisions) - decided.remembered - decided.linear
            for by, texts in zip(_ANSWERED_BY, (decided.remembered, decided.linear, rest), strict=True):
                self.router_answers.labels(by).inc(texts)
            self.router_seconds.observe(decided.router_seconds)

    def observe_request(self, record: RequestRecord) -> None:
        """Count a request that has ended; what is not dispatched to the engine is not counted."""
        if record.endpoint is None:
            return
        path = record.endpoint.path
        for generation in record.generations:
            self._observe_generation(generation, path)
        if not record.generations:
            self.requests.labels(UNDECIDED, path, UNDECIDED, record.code).inc()

    def _observe_generation(self, generation: Generation, path: str) -> None:
        expert = generation.target.name
        self.requests.labels(expert, path, generation.reason, generation.code).inc()
        self.request_seconds.labels(expert, path).observe(generation.seconds)
        if generation.first_token_seconds is not None:
            self.first_token_seconds.labels(expert, path).observe(generation.first_token_seconds)
        usage = generation.usage.total()
        if usage is not None:
            self.tokens.labels(expert, "prompt").inc(usage.prompt)
            self.tokens.labels(expert, "completion").inc(usage.completion)


def _keep_only(family: Counter | Gauge | Histogram, label: str, values: set[str]) -> None:
    """Remove the series of a family whose label has another value."""
    present = {sample.labels[label] for metric in family.collect() for sample in metric.samples}
    for value in present - values:
        family.remove_by_labels({label: value})
