"""Whether a stream's first event waits for somebody else's classification: named streams beside 32 busy clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from statistics import median, quantiles
from typing import Any

from benchmarks.serving_client import Connection, ask_once, request_bytes
from benchmarks.serving_load import PATH, TOKENS, Asked, body_of
from benchmarks.serving_servers import BenchmarkError, Server
from benchmarks.serving_windows import there_and_back
from service.request.names import AUTO

NEIGHBOURS = 32
_TOKENS = 4  # of a neighbour's answer
_SETTLE_SECONDS = 0.7  # until all neighbours are under way


async def first_byte_figures(service: Server, asked: Sequence[Asked], seconds: float) -> dict[str, Any]:
    """Return ms to the first event of named streams, alone and beside three kinds of neighbours, `seconds` each.

    Named and routed neighbours send the same long text, so a stream meets the same work in the engine and only
    one kind is classified. `classified` ones send it to `/v1/route`: nothing but classification.
    """
    text = await _long_text(service, [one.prompt for one in asked])
    neighbours = {
        "alone": [],
        "named": [
            request_bytes(PATH, body_of(text, one.expert, max_tokens=_TOKENS)) for one in asked[:NEIGHBOURS]
        ],
        "routed": [request_bytes(PATH, body_of(text, AUTO, max_tokens=_TOKENS))] * NEIGHBOURS,
        "classified": [request_bytes("/v1/route", {"input": text})] * NEIGHBOURS,
    }
    own = [request_bytes(PATH, body_of(one.prompt, one.expert, stream=True, max_tokens=1)) for one in asked]
    waited: dict[str, list[float]] = {kind: [] for kind in neighbours}
    answered: dict[str, list[float]] = {kind: [] for kind in neighbours}
    for kind in there_and_back(tuple(neighbours)):
        first, others = await _streams_beside(service.port, own, neighbours[kind], seconds / 2)
        waited[kind] += first
        answered[kind] += others
    return {
        "neighbours": NEIGHBOURS,
        "text_characters": len(text),
        "first_event_ms": {kind: _spread_ms(times) for kind, times in waited.items()},
        "neighbours_answer_ms": {kind: _spread_ms(times) for kind, times in answered.items() if times},
    }


async def _streams_beside(
    port: int, own: Sequence[bytes], neighbours: Sequence[bytes], seconds: float
) -> tuple[list[float], list[float]]:
    """Ask streams one after another for so long; return the seconds to their first events, and the neighbours'."""
    over = asyncio.Event()
    tasks = [asyncio.create_task(_neighbour(port, request, over)) for request in neighbours]
    connection = await Connection.opened(port)
    try:
        if tasks:
            await asyncio.sleep(_SETTLE_SECONDS)
        first: list[float] = []
        end = time.monotonic() + seconds
        while not first or time.monotonic() < end:
            reply = await connection.ask(own[len(first) % len(own)])
            if reply.status != 200 or not reply.body.startswith(b"data: "):
                raise BenchmarkError(f"a stream answered {reply.status}: {reply.body[:300]!r}")
            first.append(reply.first_seconds)
    finally:
        over.set()
        connection.close()
        answered = await asyncio.gather(*tasks)
    return first, [seconds for times in answered for seconds in times]


async def _neighbour(port: int, request: bytes, over: asyncio.Event) -> list[float]:
    connection = await Connection.opened(port)
    times = []
    try:
        while not over.is_set():
            reply = await connection.ask(request)
            if reply.status != 200:
                raise BenchmarkError(f"a neighbour got {reply.status}: {reply.body[:300]!r}")
            times.append(reply.seconds)
    finally:
        connection.close()
    return times


async def _long_text(service: Server, texts: Sequence[str]) -> str:
    """Return as much text as the model's length allows: more than a router reads at once."""
    kept = ""
    for text in texts:
        longer = f"{kept}\n{text}".lstrip("\n")
        reply = await ask_once(service.port, "/tokenize", body_of(longer, AUTO))
        if reply.status == 400:  # too long even to be counted
            break
        if reply.status != 200:
            raise BenchmarkError(f"/tokenize answered {reply.status}: {reply.body[:300]!r}")
        found = json.loads(reply.body)
        if found["count"] > found["max_model_len"] - TOKENS:
            break
        kept = longer
    return kept


def _spread_ms(seconds: Sequence[float]) -> dict[str, float]:
    p95 = quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return {
        "p50": 1000 * median(seconds),
        "p95": 1000 * p95,
        "max": 1000 * max(seconds),
        "count": len(seconds),
    }
