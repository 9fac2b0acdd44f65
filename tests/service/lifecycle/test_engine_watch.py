"""A dead engine and one that does not move are noticed though nobody asks anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.lifecycle import engine_watch
from service.lifecycle.lifecycle import STALLED, Lifecycle


class Engine:
    def __init__(self) -> None:
        self.dead = False
        self.moves = asyncio.Event()
        self.moves.set()
        self.asked = 0

    async def ask_for_nothing(self) -> None:
        self.asked += 1
        await self.moves.wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_LOOK_SECONDS", 0.01), ("_ASK_SECONDS", 0.02), ("STALL_SECONDS", 0.2)):
        monkeypatch.setattr(engine_watch, name, seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_engine_that_stops_is_not_ready_until_it_moves_again() -> None:
    engine, lifecycle = Engine(), Lifecycle()
    lifecycle.serving()
    watch = asyncio.create_task(engine_watch.watch_engine(engine, lifecycle))
    await until(lambda: engine.asked > 3)
    assert lifecycle.not_ready_because is None
    engine.moves.clear()
    await until(lambda: lifecycle.stalled)
    asked = engine.asked
    assert lifecycle.not_ready_because == STALLED
    assert not lifecycle.ending.is_set()
    await asyncio.sleep(0.1)
    assert engine.asked == asked, "an engine that does not answer is not asked again"
    engine.moves.set()
    await until(lambda: lifecycle.not_ready_because is None)
    watch.cancel()


@pytest.mark.parametrize("dies", [True, False])
async def test_a_stalled_engine_can_still_die_and_the_service_still_stop(dies: bool) -> None:
    engine, lifecycle = Engine(), Lifecycle()
    lifecycle.serving()
    watch = asyncio.create_task(engine_watch.watch_engine(engine, lifecycle))
    engine.moves.clear()
    await until(lambda: lifecycle.stalled)
    if dies:
        engine.dead = True
        await asyncio.wait_for(watch, 10)
    else:
        lifecycle.stop()
        watch.cancel()
    assert lifecycle.ending.is_set()
    assert lifecycle.exit_code == int(dies)
    assert lifecycle.not_ready_because != STALLED
