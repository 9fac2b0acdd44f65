from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from router.threaded import RouterThread

SLOW = 0.4  # seconds


class SlowRouter:
    labels = ("expert-0", "expert-1")

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        time.sleep(SLOW)
        if "bad" in texts:
            raise RuntimeError("the router broke")
        return np.tile(np.array([[0.25, 0.75]], np.float32), (len(texts), 1))


async def test_the_event_loop_runs_on_while_the_router_works() -> None:
    thread = RouterThread(SlowRouter())
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(SLOW / 40)
            ticks += 1

    ticker = asyncio.create_task(tick())
    answer = await thread.classify(["a", "b"])
    ticker.cancel()
    thread.close()
    assert ticks >= 5  # on the loop's own thread there would be none
    assert answer.probabilities.tolist() == [[0.25, 0.75], [0.25, 0.75]]
    assert SLOW <= answer.seconds < SLOW * 2


async def test_calls_are_answered_in_order_and_their_wait_is_counted() -> None:
    router = SlowRouter()
    thread = RouterThread(router)
    first, second = await asyncio.gather(thread.classify(["first"]), thread.classify(["second"]))
    thread.close()
    assert router.calls == [["first"], ["second"]]
    assert second.seconds >= 2 * SLOW > first.seconds


async def test_an_error_of_the_router_reaches_its_caller_only() -> None:
    thread = RouterThread(SlowRouter())
    bad, good = await asyncio.gather(
        thread.classify(["bad"]), thread.classify(["good"]), return_exceptions=True
    )
    thread.close()
    assert str(bad) == "the router broke"
    assert good.probabilities.shape == (1, 2)  # type: ignore[union-attr]


async def test_closed_means_closed() -> None:
    thread = RouterThread(SlowRouter())
    thread.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        await thread.classify(["late"])
