"""The way of a request into the engine: read, decide, rewrite `model`, play back.

Pure ASGI around vLLM's app, so every field, stream and tool call stays vLLM's own.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.allowlist import Endpoint, endpoint_of
from service.answer import Answer
from service.body import ClientGoneError, Playback, parse_object, read_body, with_body
from service.decision import Decided, Decider
from service.errors import BadRequestError, ServiceError, error_response
from service.metrics import Metrics
from service.names import Target
from service.record import CLIENT_LEFT, CRASHED, RequestRecord, record_of
from service.request_text import RequestTexts
from service.split import answer_split

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incoming:
    """A request that was read and decided."""

    endpoint: Endpoint
    scope: Scope
    body: dict[str, Any]
    decided: Decided
    record: RequestRecord


class Dispatch:
    """Sends each request to the expert that it names or that the router chooses."""

    def __init__(self, inner: ASGIApp, decider: Decider, texts: RequestTexts, metrics: Metrics) -> None:
        """`inner` is vLLM's app."""
        self._inner = inner
        self._decider = decider
        self._texts = texts
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; websockets are closed, nothing here speaks them."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        try:
            endpoint = endpoint_of(scope["method"], scope["path"])
        except ServiceError as error:
            await error_response(error)(scope, receive, send)
            return
        with self._metrics.in_flight.track_inprogress():
            await self._handle(endpoint, scope, receive, send)

    async def _handle(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            raw = await read_body(receive)
        except ClientGoneError:
            return
        record = record_of(scope)
        record.has_body()
        try:
            body = parse_object(raw)
            decided = await self._decide(endpoint, body)
        except ServiceError as error:
            await error_response(error)(scope, receive, send)
            return
        record.was_decided(decided)
        incoming = Incoming(endpoint, scope, body, decided, record)
        if len(decided.by_target) == 1:
            await self._run(incoming, decided.decisions[0].target, body, receive, send)
        else:
            await answer_split(incoming, self._run, receive, Answer(send, decided.headers))

    async def _decide(self, endpoint: Endpoint, body: dict[str, Any]) -> Decided:
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise BadRequestError("model: give a name", "model")
        target = self._decider.names.resolve(model)
        if target is not None:
            return self._decider.named(target)
        decided = await self._decider.routed(self._texts.of(endpoint, body))
        self._metrics.observe_routing(decided, self._decider.names.bundle)
        return decided

    async def _run(
        self, incoming: Incoming, target: Target, body: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        """Have the engine answer `body` with one target."""
        raw = json.dumps(body | {"model": target.engine_name}).encode()
        answer = Answer(send, incoming.decided.headers)
        playback = Playback(raw, receive, answer)
        scope = with_body(incoming.scope, raw)
        generation = incoming.record.begin_generation(target, scope)
        code = CRASHED
        try:
            await self._inner(scope, playback, generation.usage.watching(answer))
            code = CLIENT_LEFT if playback.client_left else str(answer.status or CRASHED)
        except Exception as error:
            if answer.status is not None:
                raise  # half an answer went out: only closing the connection tells the client
            _log.exception("vLLM's app raised")
            await error_response(error)(incoming.scope, receive, answer)
        finally:
            incoming.record.end_generation(generation, code, answer.first_event_at)
