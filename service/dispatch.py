"""The way of a request into the engine: read, decide, rewrite `model`, play back.

Pure ASGI around vLLM's app, so every field, stream and tool call stays vLLM's own.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.accepted import accepted_body
from service.allowlist import Endpoint, endpoint_of
from service.answer import Answer
from service.body import ClientGoneError, Playback, read_body, with_body
from service.decision import Decided, Decider
from service.errors import BadRequestError, ServiceError, error_response
from service.metrics import UNDECIDED, Metrics
from service.mistakes import RequestModels
from service.names import Target
from service.request_text import RequestTexts, prompt_count
from service.split import answer_split

CLIENT_LEFT = "499"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Incoming:
    """A request that was read and decided."""

    endpoint: Endpoint
    scope: Scope
    body: dict[str, Any]
    decided: Decided
    arrived: float
    """`time.perf_counter()` when its body was complete."""


class Dispatch:
    """Sends each request to the expert that it names or that the router chooses."""

    def __init__(
        self,
        inner: ASGIApp,
        decider: Decider,
        texts: RequestTexts,
        metrics: Metrics,
        models: RequestModels | None = None,
    ) -> None:
        """`inner` is vLLM's app, `models` what its routes take."""
        self._inner = inner
        self._models = models or RequestModels(())
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
        arrived = time.perf_counter()
        try:
            body = accepted_body(endpoint, scope, raw)
            decided = await self._decide(endpoint, body)
        except ServiceError as error:
            response = error_response(error)
            self._metrics.requests.labels(
                UNDECIDED, endpoint.path, UNDECIDED, str(response.status_code)
            ).inc()
            await response(scope, receive, send)
            return
        incoming = Incoming(endpoint, scope, body, decided, arrived)
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
            return self._decider.named(target, prompt_count(endpoint, body))
        decided = await self._decider.routed(self._texts.of(endpoint, body))
        self._metrics.observe_routing(decided)
        return decided

    async def _run(
        self, incoming: Incoming, target: Target, body: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        """Have the engine answer `body` with one target, and count it."""
        body = body | {"model": target.engine_name}
        raw = json.dumps(body).encode()
        path = incoming.endpoint.path
        answer = Answer(send, incoming.decided.headers, lambda error: self._models.mistake(path, body, error))
        playback = Playback(raw, receive, answer)
        try:
            await self._inner(with_body(incoming.scope, raw), playback, answer)
        except Exception as error:
            if answer.finished:  # Starlette raises once more what it has answered as a 500
                if answer.status == 500:
                    _log.exception("vLLM's app raised")
                return
            if answer.status is not None:
                raise  # half an answer went out: only closing the connection tells the client
            _log.exception("vLLM's app raised")
            await error_response(error)(incoming.scope, receive, answer)
        finally:
            self._count(incoming, target, answer, playback.client_left)

    def _count(self, incoming: Incoming, target: Target, answer: Answer, client_left: bool) -> None:
        path = incoming.endpoint.path
        reason = next(d.reason for d in incoming.decided.decisions if d.target == target)
        code = CLIENT_LEFT if client_left else str(answer.status or 500)
        seconds = time.perf_counter() - incoming.arrived
        self._metrics.requests.labels(target.name, path, reason, code).inc()
        self._metrics.request_seconds.labels(target.name, path).observe(seconds)
        if answer.first_event_at is not None:
            waited = answer.first_event_at - incoming.arrived
            self._metrics.first_token_seconds.labels(target.name, path).observe(waited)
