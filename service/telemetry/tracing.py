"""Whether requests are traced, and where to. Nothing of OpenTelemetry is imported here if they are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Literal

from service.errors import UsageError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from service.telemetry.spans import Tracer


@contextmanager
def tracing(endpoint: str | None) -> Iterator[Tracer | None]:
    """Have what traces requests for the length of a block; None if nobody asked for it.

    `endpoint` is the base address of an OTLP receiver, e.g. http://localhost:4318; without it
    OpenTelemetry's own variables decide.

    Raises:
        UsageError: as `trace_protocol`.

    """
    protocol = trace_protocol(endpoint)
    if protocol is None:
        yield None
        return
    from service.telemetry.spans import Tracer

    with closing(Tracer(_exporter(protocol, endpoint))) as tracer:
        yield tracer


def trace_protocol(endpoint: str | None) -> Literal["http/protobuf", "grpc"] | None:
    """Return how spans are sent, None if they are not.

    Raises:
        UsageError: the environment asks for a protocol that is not spoken here.

    """
    environ = os.environ
    address = (
        endpoint
        or environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    switched_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not address or switched_off or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    asked = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    match asked:
        case None | "" | "http/protobuf":
            return "http/protobuf"
        case "grpc":
            return "grpc"
    raise UsageError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {asked!r}. Set it to http/protobuf or grpc")


def _exporter(protocol: Literal["http/protobuf", "grpc"], endpoint: str | None) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter

        return GrpcSpanExporter(endpoint)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None)
