"""What is known of one request: filled in on its way through, read once at its end.

Metrics, the log's line and the trace are all made from it, so they can't disagree.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from starlette.types import Message, Scope, Send

from service.engine.usage import Usage, UsageReader
from service.headers import REQUEST_ID
from service.request.decision import Decided, Reason
from service.request.endpoints import ENDPOINTS, Endpoint
from service.request.names import Target

CLIENT_LEFT = "499"
"""The code of a request whose client left before its answer was complete."""
CRASHED = "500"
_KEY = "gradientspace.record"
_REQUEST_ID = REQUEST_ID.encode()


class GenerationSpan(Protocol):
    """The trace of one generation."""

    def end(self, generation: Generation) -> None:
        """Say how it went."""


class RequestSpan(Protocol):
    """The trace of one request: `service.telemetry.spans` makes it, where traces are asked for."""

    @property
    def trace_id(self) -> str:
        """32 hex digits."""

    @property
    def span_id(self) -> str:
        """16 hex digits."""

    def begin_generation(self, generation: Generation, scope: Scope) -> GenerationSpan:
        """Start the span of one generation, and say so in the trace headers of its scope."""

    def end(self, record: RequestRecord) -> None:
        """Say how the request went."""


@dataclass
class Generation:
    """One target's answer to its part of a request."""

    target: Target
    reason: Reason
    prompts: int
    """How many prompts of the request it answers."""
    usage: UsageReader
    span: GenerationSpan | None = None
    code: str = CRASHED
    seconds: float = 0.0
    """From the request's body to the end of this answer."""
    first_token_seconds: float | None = None
    """From the request's body to a stream's first event."""


@dataclass
class RequestRecord:
    """One request; times are those of `time.perf_counter()`."""

    method: str
    path: str
    request_id: str
    started: float
    endpoint: Endpoint | None
    """None if the path is not dispatched."""
    span: RequestSpan | None = None
    """None if nothing is traced."""
    body_read: float | None = None
    decided: Decided | None = None
    decided_at: float | None = None
    generations: list[Generation] = field(default_factory=list)
    status: int | None = None
    finished: bool = False
    """Whether the answer left complete."""
    crashed: bool = False
    failed_with: str | None = None
    """The code of the error that a stream ended with, after its status had gone out."""
    ended: float = 0.0

    def has_body(self) -> None:
        """Note that the body was read: latencies count from here, not from a slow client's upload."""
        self.body_read = time.perf_counter()

    def was_decided(self, decided: Decided) -> None:
        """Note who answers."""
        self.decided, self.decided_at = decided, time.perf_counter()

    def begin_generation(self, target: Target, scope: Scope) -> Generation:
        """Note that a target begins to answer the request of this scope.

        With tracing the scope's trace headers become those of the generation's span, so that spans which
        the engine itself exports hang below it.
        """
        decisions = [d for d in self.decided.decisions if d.target == target] if self.decided else []
        generation = Generation(
            target, decisions[0].reason if decisions else "named", len(decisions), UsageReader(scope)
        )
        if self.span is not None:
            generation.span = self.span.begin_generation(generation, scope)
        self.generations.append(generation)
        return generation

    def end_generation(self, generation: Generation, code: str, first_event_at: float | None) -> None:
        """Note how it ended; `first_event_at` is that of a stream."""
        since = self.started if self.body_read is None else self.body_read
        generation.code = code
        generation.seconds = time.perf_counter() - since
        if first_event_at is not None:
            generation.first_token_seconds = first_event_at - since
        if generation.span is not None:
            generation.span.end(generation)

    def watching(self, send: Send) -> Send:
        """Return a send channel that notes how the answer went."""

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self.finished = True

        return watched

    @property
    def code(self) -> str:
        """How it ended, as clients and metrics name it.

        The status, or the code of a stream's error; 499 if the client left, 500 after a crash.
        """
        if self.crashed:
            return CRASHED
        if self.status is None or not self.finished:
            return CLIENT_LEFT
        if self.failed_with is not None:
            return self.failed_with
        left = any(generation.code == CLIENT_LEFT for generation in self.generations)
        return CLIENT_LEFT if left and self.status < 400 else str(self.status)

    @property
    def usage(self) -> Usage | None:
        """The tokens of all its generations; None if the engine reported none."""
        reported = [
            usage for generation in self.generations if (usage := generation.usage.total()) is not None
        ]
        return Usage.sum(reported) if reported else None


def new_record(scope: Scope) -> RequestRecord:
    """Return the record of a request that has just come in."""
    method, path = scope["method"], scope["path"]
    return RequestRecord(
        method=method,
        path=path,
        request_id=next((value.decode() for name, value in scope["headers"] if name == _REQUEST_ID), ""),
        started=time.perf_counter(),
        endpoint=ENDPOINTS.get(path) if method == "POST" else None,
    )


def recorded(scope: Scope, record: RequestRecord) -> Scope:
    """Return the scope with its record."""
    return {**scope, _KEY: record}


def record_of(scope: Scope) -> RequestRecord:
    """Return the record that belongs to a scope; one that nobody reads where nothing is observed."""
    record = scope.get(_KEY)
    return record if isinstance(record, RequestRecord) else new_record(scope)
