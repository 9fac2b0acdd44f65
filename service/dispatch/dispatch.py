"""The way of a request into the engine: read, decide, rewrite `model`, play back.

Pure ASGI around vLLM's app, so every field, stream and tool call stays vLLM's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.dispatch.answer import Answer
from service.dispatch.body import Client, ClientGoneError, Playback, read_body, with_body
from service.dispatch.incoming import Incoming
from service.dispatch.prompt_list import answer_prompt_list
from service.engine.json_schemas import compile_schemas
from service.engine.request_models import RequestModels
from service.errors import (
    ENGINE_DIED,
    BadRequestError,
    ServiceError,
    ServiceUnavailableError,
    reshaped,
)
from service.lifecycle.in_flight import InFlight
from service.request.decision import Decided, Decider
from service.request.endpoints import Endpoint, endpoint_of
from service.request.limits import RequestLimits
from service.request.names import Target
from service.request.refused_fields import accepted_body
from service.request.routed_text import RequestTexts, prompt_count
from service.request.tools import check_tools
from service.telemetry.metrics import Metrics
from service.telemetry.record import CLIENT_LEFT, RequestRecord, record_of

_ENDED_BEFORE_IT_BEGAN = "503"
_MAY_BE_A_MISTAKE = (400, 500)
_log = logging.getLogger(__name__)


class Dispatch:
    """Sends each request to the expert that it names or that the router chooses."""

    def __init__(
        self,
        inner: ASGIApp,
        decider: Decider,
        texts: RequestTexts,
        metrics: Metrics,
        in_flight: InFlight,
        limits: RequestLimits,
        engine_is_dead: Callable[[], bool],
        models: RequestModels,
        calls_known: bool,
    ) -> None:
        """`inner` is vLLM's app, which answers 500 where `engine_is_dead`; `models` are what its routes take.

        `calls_known`: whether it recognises calls of tools that the model makes of its own accord.
        """
        self._inner = inner
        self._models = models
        self._calls_known = calls_known
        self._decider = decider
        self._texts = texts
        self._metrics = metrics
        self._in_flight = in_flight
        self._limits = limits
        self._engine_is_dead = engine_is_dead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; websockets are closed, nothing here speaks them."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        answer = Answer(send, scope["path"])
        try:
            endpoint = endpoint_of(scope["method"], scope["path"])
            await self._admit(endpoint, scope, receive, answer)
        except ServiceError as error:
            await answer.fail(error, scope, receive)
        finally:
            record_of(scope).failed_with = answer.failed_with

    async def _admit(self, endpoint: Endpoint, scope: Scope, receive: Receive, answer: Answer) -> None:
        """Read the body and answer it, if there is a place; who sends slowly holds none meanwhile."""
        self._in_flight.check()
        try:
            raw = await read_body(receive)
        except ClientGoneError:
            return
        record = record_of(scope)
        record.has_body()
        with self._in_flight.slot() as slot:
            try:
                await self._handle(endpoint, scope, raw, record, Client(receive), answer)
            except ClientGoneError:
                return  # the record says so
            except asyncio.CancelledError:
                error = slot.absorb_cancellation()
                if error is None:
                    raise
                await answer.fail(error, scope, receive)

    async def _handle(
        self,
        endpoint: Endpoint,
        scope: Scope,
        raw: bytes,
        record: RequestRecord,
        client: Client,
        answer: Answer,
    ) -> None:
        accepted = accepted_body(endpoint, scope, raw)
        await self._models.check_items(endpoint, accepted)
        body = self._models.coerced(endpoint, accepted)
        check_tools(endpoint, body, self._calls_known)
        self._limits.check(endpoint, body)
        await compile_schemas(body)
        target = self._named(body)
        if target is not None:
            decided = self._decider.named(target, prompt_count(endpoint, body))
        else:
            decided = await self._routed(self._texts.of(endpoint, body), client)
            self._metrics.observe_routing(decided, self._decider.names.bundle)
        record.was_decided(decided)
        answer.headers = decided.headers
        incoming = Incoming(endpoint, scope, body, decided, record)
        if len(decided.by_target) == 1:
            await self._run(incoming, decided.decisions[0].target, body, client.receive, answer)
        else:
            await answer_prompt_list(incoming, self._run, client.receive, answer)

    async def _routed(self, texts: Sequence[str], client: Client) -> Decided:
        """Decide in this turn of the loop if that needs no waiting; else wait as long as the client does."""
        if len(texts) != 1:
            return await client.unless_gone(self._decider.routed(texts))
        start = time.perf_counter()
        decided = self._decider.at_once(texts[0])
        if decided is None:
            decided = await client.unless_gone(self._decider.routed(texts, since=start))
        return decided

    def _named(self, body: dict[str, Any]) -> Target | None:
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise BadRequestError("model: give a name", "model")
        return self._decider.names.resolve(model)

    async def _run(
        self, incoming: Incoming, target: Target, body: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        """Have the engine answer `body` with one target."""
        body = body | {"model": target.engine_name}
        raw = json.dumps(body).encode()
        answer = Answer(send, incoming.endpoint.path, partial(self._explain, incoming.endpoint, body))
        playback = Playback(raw, receive, answer)
        scope = with_body(incoming.scope, raw)
        generation = incoming.record.begin_generation(target, scope)
        try:
            await self._inner(scope, playback, generation.usage.watching(answer))
        except Exception as error:
            known = self._explain_raised(incoming.endpoint, body, error)
            if known is None and not answer.finished:  # else it was answered, and is raised once more
                _log.exception("vLLM's app raised")
            await answer.fail(known or error, incoming.scope, receive)
        finally:
            code = answer.failed_with or str(answer.status or _ENDED_BEFORE_IT_BEGAN)
            code = CLIENT_LEFT if playback.client_left else code
            incoming.record.end_generation(generation, code, answer.first_event_at)

    def _explain(
        self, endpoint: Endpoint, body: dict[str, Any], status: int, error: bytes
    ) -> ServiceError | None:
        """Return whose fault an error of the engine is, if it is not what the engine says."""
        death = self._explain_death(status, error)
        if death is not None or status not in _MAY_BE_A_MISTAKE:
            return death
        return self._models.mistake(endpoint, body, error)

    def _explain_raised(
        self, endpoint: Endpoint, body: dict[str, Any], error: Exception
    ) -> ServiceError | None:
        """Return what a client is told of an exception of vLLM's app, None: that there was one.

        Its streams raise what its other answers say.
        """
        answered = self._models.answer_to(error)
        if answered is None:
            return self._explain_death(500, b"")
        status, said = answered
        known = self._explain(endpoint, body, status, said)
        if known is None and status < 500:
            shaped = reshaped(status, said)["error"]
            known = BadRequestError(shaped["message"], shaped["param"])
        return known

    def _explain_death(self, status: int, error: bytes) -> ServiceError | None:
        return ServiceUnavailableError(ENGINE_DIED) if status >= 500 and self._engine_is_dead() else None
