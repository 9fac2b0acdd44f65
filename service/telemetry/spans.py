"""OpenTelemetry spans of a request, in the words of the gen_ai conventions; never a text that was asked.

Imported only where an endpoint for traces is configured (`tracing`). One server span per request; below it
one for routing and one for each expert that generates.
"""

from __future__ import annotations

import logging
import time
from importlib.metadata import version
from threading import Thread
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace import Tracer as OtelTracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Scope

from service.request.names import AUTO

if TYPE_CHECKING:
    from service.engine.usage import Usage
    from service.request.endpoints import Endpoint
    from service.telemetry.record import Generation, RequestRecord

PROVIDER = "gradientspace"
_FLUSH_SECONDS = 2.0  # ours: the end of the service waits no longer for a collector that is not there
_PROPAGATOR = TraceContextTextMapPropagator()
_OPERATIONS = {  # what is not here generates nothing, and has its own name as its operation
    "/v1/completions": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
}


class Tracer:
    """Makes the spans of requests. Exporting is a thread's business; what it can't send it drops."""

    def __init__(self, exporter: SpanExporter) -> None:
        """Sampler, resource and batch sizes are set by OpenTelemetry's own environment variables."""
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # one line per lost batch, not per retry
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(PROVIDER)

    def begin_request(self, record: RequestRecord, scope: Scope) -> RequestSpan:
        """Start the span of a dispatched request, below the client's if it sent a `traceparent`."""
        assert record.endpoint is not None
        return RequestSpan(self._tracer, record.endpoint, record, scope)

    def close(self) -> None:
        """Send what is left, as far as that goes within two seconds."""
        sending = Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(_FLUSH_SECONDS)


def _resource() -> Resource:
    """Return who sends the spans; a name that the environment gives comes first."""
    named = Resource.create()
    if str(named.attributes["service.name"]).startswith("unknown_service"):
        named = named.merge(Resource({"service.name": PROVIDER}))
    return Resource({"service.version": version("gradientspace")}).merge(named)


class RequestSpan:
    """The server span of one request."""

    def __init__(self, tracer: OtelTracer, endpoint: Endpoint, record: RequestRecord, scope: Scope) -> None:
        """Start it."""
        self._tracer = tracer
        self._operation = _OPERATIONS.get(endpoint.path, endpoint.path.rpartition("/")[2])
        attributes = {
            "gen_ai.operation.name": self._operation,
            "gen_ai.provider.name": PROVIDER,
            "http.request.method": record.method,
            "http.route": endpoint.path,
            "url.path": endpoint.path,
            "gradientspace.request_id": record.request_id,
        }
        address, port = scope.get("server") or (None, None)
        if address is not None and port is not None:
            attributes |= {"server.address": address, "server.port": port}
        carrier = {name: value for name, value in Headers(scope=scope).items() if name.startswith("trace")}
        self._span = tracer.start_span(
            self._operation,
            context=_PROPAGATOR.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return format(self._span.get_span_context().trace_id, "032x")

    @property
    def span_id(self) -> str:
        """16 hex digits."""
        return format(self._span.get_span_context().span_id, "016x")

    def begin_generation(self, generation: Generation, scope: Scope) -> GenerationSpan:
        """Start the span of one expert's part and put it into the trace headers of the engine's scope."""
        span = self._tracer.start_span(
            f"generate {generation.target.name}",
            context=set_span_in_context(self._span, Context()),
            attributes={
                "gen_ai.operation.name": self._operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.response.model": generation.target.name,
                "gradientspace.model": generation.target.engine_name,
                "gradientspace.reason": generation.reason,
                "gradientspace.prompts": generation.prompts,
            },
        )
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        MutableHeaders(scope=scope).update(carrier)
        return GenerationSpan(span)

    def end(self, record: RequestRecord) -> None:
        """Say how the request went."""
        decided = record.decided
        if decided is not None:
            names = list(dict.fromkeys(decision.target.name for decision in decided.decisions))
            asked = decided.decisions[0].target.name if decided.decisions[0].reason == "named" else AUTO
            self._span.update_name(f"{self._operation} {asked}")
            self._span.set_attributes(
                {"gen_ai.request.model": asked, "gen_ai.response.model": ",".join(names)}
            )
            self._routing(record)
        self._span.set_attribute("http.response.status_code", int(record.code))
        _close(self._span, record.code, record.usage)

    def _routing(self, record: RequestRecord) -> None:
        """Add the span of a routing that is over; a named request had none."""
        decided = record.decided
        if decided is None or decided.decisions[0].reason == "named":
            return
        if record.body_read is None or record.decided_at is None:
            return
        self._tracer.start_span(
            "route",
            context=set_span_in_context(self._span, Context()),
            start_time=_epoch_ns(record.body_read),
            attributes={
                "gradientspace.router_ms": 1000 * decided.router_seconds,
                "gradientspace.expert": [decision.target.name for decision in decided.decisions],
                "gradientspace.reason": [decision.reason for decision in decided.decisions],
                "gradientspace.confidence": [decision.confidence for decision in decided.decisions],
            },
        ).end(_epoch_ns(record.decided_at))


class GenerationSpan:
    """The span of one expert's answer."""

    def __init__(self, span: Span) -> None:
        """Wrap a started span."""
        self._span = span

    def end(self, generation: Generation) -> None:
        """Say how it went."""
        if generation.first_token_seconds is not None:
            self._span.set_attribute(
                "gradientspace.time_to_first_token_ms", 1000 * generation.first_token_seconds
            )
        _close(self._span, generation.code, generation.usage.total())


def _close(span: Span, code: str, usage: Usage | None) -> None:
    if usage is not None:
        span.set_attributes(
            {"gen_ai.usage.input_tokens": usage.prompt, "gen_ai.usage.output_tokens": usage.completion}
        )
    if code >= "400":
        span.set_attribute("error.type", code)
    if code >= "500":  # a server's span blames the client for nothing
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _epoch_ns(moment: float) -> int:
    """Turn a time of `time.perf_counter()` into nanoseconds since 1970."""
    return time.time_ns() - round((time.perf_counter() - moment) * 1e9)
