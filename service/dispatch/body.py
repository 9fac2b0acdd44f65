"""Request bodies: read whole, changed, and played back to the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Message, Receive, Scope

from service.dispatch.answer import Answer

T = TypeVar("T")
ClientGoneError = ConnectionResetError
"""Raised when the client leaves before its request is complete."""


async def read_body(receive: Receive) -> bytes:
    """Return the whole body.

    Raises:
        ClientGoneError: the client left first.

    """
    chunks = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(chunks)


_FOR_THE_ENGINES_OPERATOR = (b"x-data-parallel-rank", b"x-vllm-priority")
"""Headers that vLLM obeys and no client is to send: which engine answers, and before whom."""
_NOT_PASSED_ON = frozenset({b"content-length", b"transfer-encoding", *_FOR_THE_ENGINES_OPERATOR})


def with_body(scope: Scope, body: bytes) -> Scope:
    """Return the scope of a request that carries `body` instead."""
    kept = [pair for pair in scope["headers"] if pair[0] not in _NOT_PASSED_ON]
    return {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}


class Client:
    """The client after its body: all that can still come from it is that it leaves."""

    def __init__(self, receive: Receive) -> None:
        """`receive` is the request's, its body read."""
        self._receive = receive
        self._next: asyncio.Task[Message] | None = None

    async def receive(self) -> Message:
        """Return the next message."""
        pending, self._next = self._next, None
        return await (pending or self._receive())

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; if the client leaves first, cancel it.

        Raises:
            ClientGoneError: it left first. Or what `work` raises.

        """
        working = asyncio.ensure_future(work)
        self._next = asyncio.ensure_future(self._receive())  # not cancelled: it may hold a message by then
        try:
            await asyncio.wait((working, self._next), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ClientGoneError
            return working.result()
        except BaseException:
            working.cancel()
            self._next.cancel()
            raise


class Playback:
    """A receive channel that plays a body first and hands on the original channel afterwards.

    So a client that leaves still reaches the engine, which then stops generating.
    """

    def __init__(self, body: bytes, then: Receive, answer: Answer) -> None:
        """`then` answers every call after the first; `answer` is where the answer goes."""
        self._body: bytes | None = body
        self._then = then
        self._answer = answer
        self.client_left = False
        """Whether it left before its answer was complete."""

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._then()
        if message["type"] == "http.disconnect" and not self._answer.finished:
            self.client_left = True
        return message
