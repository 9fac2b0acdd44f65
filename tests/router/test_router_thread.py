from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from router.threaded import Classified, RouterThread, RouterTimeoutError

SLOW = 0.4  # seconds
ENOUGH = 60.0


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
    thread = RouterThread(SlowRouter(), ENOUGH)
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
    thread = RouterThread(router, ENOUGH)
    first, second = await asyncio.gather(thread.classify(["first"]), thread.classify(["second"]))
    thread.close()
    assert router.calls == [["first"], ["second"]]
    assert second.seconds >= 2 * SLOW > first.seconds


async def test_an_error_of_the_router_reaches_its_caller_only() -> None:
    thread = RouterThread(SlowRouter(), ENOUGH)
    bad, good = await asyncio.gather(
        thread.classify(["bad"]), thread.classify(["good"]), return_exceptions=True
    )
    thread.close()
    assert str(bad) == "the router broke"
    assert good.probabilities.shape == (1, 2)  # type: ignore[union-attr]


async def test_closed_means_closed() -> None:
    thread = RouterThread(SlowRouter(), ENOUGH)
    thread.close()
    with pytest.raises(RuntimeError, match="closed"):
        await thread.classify(["late"])


class HangingRouter:
    """Hangs in every call whose texts say so, until it is let go."""

    labels = ("expert-0",)

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.let_go = threading.Event()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        if "hang" in texts:
            self.let_go.wait()
        return np.ones((len(texts), 1), np.float32)


async def test_a_hanging_call_holds_up_nobody_for_longer_than_the_limit_and_piles_up_nothing() -> None:
    router = HangingRouter()
    thread = RouterThread(router, 0.3)
    threads = threading.active_count()
    behind = [thread.classify(["hang"]), *(thread.classify(["behind"]) for _ in range(20))]
    for error in await asyncio.gather(*behind, return_exceptions=True):
        assert isinstance(error, RouterTimeoutError)
    start = time.monotonic()
    for _ in range(1000):
        with pytest.raises(RouterTimeoutError, match="not come back"):
            await thread.classify(["later"])
    assert time.monotonic() - start < 1000 * 0.3 / 2  # none of them waited for the limit
    assert threading.active_count() == threads
    router.let_go.set()
    answer: Classified | None = None
    while answer is None:
        try:
            answer = await thread.classify(["again"])
        except RouterTimeoutError:
            await asyncio.sleep(0.01)
    assert answer.probabilities.tolist() == [[1.0]]
    assert router.calls == [["hang"], ["again"]]  # nobody's text was routed after they had stopped waiting
    thread.close()


async def test_who_stops_waiting_is_never_routed() -> None:
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH)
    first = asyncio.create_task(thread.classify(["hang"]))
    left = asyncio.create_task(thread.classify(["left"]))
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.wait([left])
    router.let_go.set()
    await first
    await thread.classify(["next"])
    assert router.calls == [["hang"], ["next"]]
    thread.close()


async def test_a_timeout_that_the_router_raises_is_its_own_error() -> None:
    class Raising(HangingRouter):
        def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
            raise TimeoutError("of the router")

    thread = RouterThread(Raising(), ENOUGH)
    with pytest.raises(TimeoutError, match="of the router"):
        await thread.classify(["text"])
    thread.close()


def test_a_process_whose_router_hangs_can_end() -> None:
    program = """
import asyncio, threading
from router.threaded import RouterThread, RouterTimeoutError

class Hangs:
    labels = ()
    def probabilities(self, texts):
        threading.Event().wait()

async def main():
    thread = RouterThread(Hangs(), 0.1)
    try:
        await thread.classify(["text"])
    except RouterTimeoutError:
        thread.close()
        print("closed")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "closed"), done.stderr
