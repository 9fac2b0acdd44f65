"""A flood of dry runs leaves every second turn of the event loop to others."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from service.request.decision import Decided
from service.routes import route
from service.routes.route import OnePerTurn

CALLERS = 20


class Clock:
    """Counts turns of the event loop while the block runs."""

    def __init__(self) -> None:
        self.turn = 0

    async def __aenter__(self) -> Clock:
        self._task = asyncio.create_task(self._run())
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turn += 1


async def test_each_goes_on_in_a_turn_of_its_own_in_the_order_they_came() -> None:
    line, seen = OnePerTurn(), []

    async def caller(number: int) -> None:
        await line.turn()
        seen.append((number, clock.turn))

    async with Clock() as clock:
        await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    assert [number for number, _ in seen] == list(range(CALLERS))
    turns = [turn for _, turn in seen]
    assert len(set(turns)) == CALLERS, f"several went on in one turn: {turns}"


async def test_who_leaves_the_line_holds_up_nobody() -> None:
    line = OnePerTurn()
    leaves, stays = (asyncio.create_task(line.turn()) for _ in range(2))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait_for(stays, 120)


async def test_dry_runs_that_come_together_are_decided_in_turns_of_their_own() -> None:
    decided = []

    class Decider:
        async def routed(self, texts: list[str]) -> Decided:
            decided.append(clock.turn)
            return Decided((), 0.0)

    def slot(endable: bool) -> Any:
        return contextlib.nullcontext()

    app = FastAPI()
    app.include_router(route.router)
    app.state.service = SimpleNamespace(
        texts=SimpleNamespace(of_prompts=list),
        limits=SimpleNamespace(check_count=lambda *_: None),
        in_flight=SimpleNamespace(slot=slot),
        dry_runs=OnePerTurn(),
        decider=Decider(),
        bundle=SimpleNamespace(manifest=SimpleNamespace(label_order=()), digest=""),
    )
    transport = httpx.ASGITransport(app)
    async with Clock() as clock, httpx.AsyncClient(transport=transport, base_url="http://x") as http:
        asked = (http.post("/v1/route", json={"input": "text"}) for _ in range(CALLERS))
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200] * CALLERS
    assert len(set(decided)) == CALLERS, f"several were decided in one turn: {decided}"
