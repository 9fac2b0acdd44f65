"""The layer that sees every request whole: it counts it, logs its line and closes its trace at the end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from service.telemetry.metrics import Metrics
from service.telemetry.record import new_record, recorded
from service.telemetry.request_log import log_request

if TYPE_CHECKING:
    from service.telemetry.spans import Tracer

_PROBED = ("/health", "/metrics")


class Observation:
    """Pure ASGI, directly inside `RequestIds`, so that it also sees what is refused on the way in."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracer: Tracer | None = None) -> None:
        """`tracer` is None where no endpoint for traces is configured."""
        self._app = app
        self._metrics = metrics
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = new_record(scope)
        if self._tracer is not None and record.endpoint is not None:
            record.span = self._tracer.begin_request(record, scope)
        try:
            await self._app(recorded(scope, record), receive, record.watching(send))
        except Exception:
            record.crashed = True
            raise
        finally:
            record.ended = time.perf_counter()
            self._metrics.observe_request(record)
            if record.span is not None:
                record.span.end(record)
            if not record.path.startswith(_PROBED):  # probes would drown the rest
                log_request(record)
