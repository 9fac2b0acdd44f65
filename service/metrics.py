"""Our own metric families, beside vLLM's on the same registry. Labels are bounded: K is small and fixed."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from service.decision import Decided

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
            "Routed texts that the fallback adapter answered",
            ["reason"],
            registry=registry,
        )

    def observe_routing(self, decided: Decided) -> None:
        """Count what the router decided for a request that is going to be answered."""
        router_ran = False
        for decision in decided.decisions:
            if decision.probabilities:
                router_ran = True
                self.router_confidence.observe(decision.confidence)
            if decision.reason in ("low_confidence", "router_error"):
                self.fallbacks.labels(decision.reason).inc()
        if router_ran:
            self.router_seconds.observe(decided.router_seconds)
