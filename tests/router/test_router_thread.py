from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from router.protocol import Router
from router.threaded import Routed, RouterFullError, RouterThread, RouterTimeoutError

ENOUGH = 300.0


class HangingRouter(Router):
    """Hangs in every call whose texts say so, until it is let go."""

    labels = ("expert-0", "expert-1")

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.let_go = threading.Event()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        if "hang" in texts:
            self.let_go.wait(ENOUGH)
        if "bad" in texts:
            raise RuntimeError("the router broke")
        return np.tile(np.array([[0.25, 0.75]], np.float32), (len(texts), 1))


async def entered(router: HangingRouter) -> None:
    async with asyncio.timeout(ENOUGH):
        while not router.calls:
            await asyncio.sleep(0.005)


async def test_the_event_loop_runs_on_while_the_router_works() -> None:
    router = HangingRouter()
    thread = RouterThread(router, 2 * ENOUGH)
    answer = asyncio.create_task(thread.route(["hang", "b"]))
    await entered(router)
    for _ in range(5):  # on the loop's own thread there would be none of these turns
        await asyncio.sleep(0.01)
        assert not answer.done()
    router.let_go.set()
    assert (await answer).probabilities.tolist() == [[0.25, 0.75], [0.25, 0.75]]
    assert (await answer).seconds >= 0.05
    thread.close()


async def test_the_wait_behind_others_is_counted() -> None:
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    second = asyncio.create_task(thread.route(["behind"]))
    await asyncio.sleep(0)  # it waits now
    await asyncio.sleep(0.2)
    router.let_go.set()
    await first
    assert (await second).seconds >= 0.2
    assert router.calls == [["hang"], ["behind"]]
    thread.close()


async def test_an_error_of_the_router_reaches_its_caller_only() -> None:
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    waiting = [asyncio.create_task(thread.route([text])) for text in ("good", "bad", "fine")]
    await asyncio.sleep(0)
    router.let_go.set()
    good, bad, fine = await asyncio.gather(*waiting, return_exceptions=True)
    await first
    thread.close()
    assert sorted(router.calls[1]) == ["bad", "fine", "good"], "they should have shared a pass"
    assert str(bad) == "the router broke"
    assert good.probabilities.shape == fine.probabilities.shape == (1, 2)  # type: ignore[union-attr]


async def test_closed_means_closed() -> None:
    thread = RouterThread(HangingRouter(), ENOUGH)
    thread.close()
    with pytest.raises(RuntimeError, match="closed"):
        await thread.route(["late"])


async def test_a_hanging_call_holds_up_nobody_for_longer_than_the_limit_and_piles_up_nothing() -> None:
    router = HangingRouter()
    thread = RouterThread(router, 0.3)
    threads = threading.active_count()
    hangs = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    behind = [hangs, *(thread.route(["behind"]) for _ in range(20))]
    for error in await asyncio.gather(*behind, return_exceptions=True):
        assert isinstance(error, RouterTimeoutError)
    start = time.monotonic()
    for _ in range(1000):
        with pytest.raises(RouterTimeoutError, match="not come back"):
            await thread.route(["later"])
    assert time.monotonic() - start < 1000 * 0.3 / 2  # none of them waited for the limit
    assert threading.active_count() == threads
    router.let_go.set()
    answer: Routed | None = None
    while answer is None:
        try:
            answer = await thread.route(["again"])
        except RouterTimeoutError:
            await asyncio.sleep(0.01)
    assert answer.probabilities.tolist() == [[0.25, 0.75]]
    assert [call for call in router.calls if call != ["again"]] == [
        ["hang"]
    ]  # nobody's text was routed after they had stopped waiting
    thread.close()


async def test_who_stops_waiting_is_never_routed() -> None:
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    left = asyncio.create_task(thread.route(["left"]))
    await asyncio.sleep(0.05)
    left.cancel()
    await asyncio.wait([left])
    router.let_go.set()
    await first
    await thread.route(["next"])
    assert router.calls == [["hang"], ["next"]]
    thread.close()


async def behind_a_hanging_call(*calls: Sequence[str]) -> list[list[str]]:
    """The passes that the router makes of calls which all wait when it becomes free."""
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    waiting = [asyncio.create_task(thread.route(texts)) for texts in calls]
    await asyncio.sleep(0.02)
    router.let_go.set()
    for texts, answer in zip(calls, await asyncio.gather(*waiting), strict=True):
        assert answer.probabilities.shape == (len(texts), 2)
    await first
    thread.close()
    return router.calls[1:]


async def test_short_texts_of_several_callers_share_a_pass() -> None:
    assert await behind_a_hanging_call(["a"], ["b", "c"], ["d"]) == [["a", "b", "c", "d"]]


async def test_a_pass_stays_small() -> None:
    texts = [letter * 300 for letter in "abcdefg"]
    passes = await behind_a_hanging_call(*([text] for text in texts))
    assert [len(one) for one in passes] == [3, 3, 1]  # padded to the longest, 1,024 characters
    assert [text for one in passes for text in one] == texts
    shorter, longer = ["s" * 10] * 3, "l" * 900  # which the three would be padded to
    assert await behind_a_hanging_call(shorter, [longer]) == [shorter, [longer]]


async def test_a_short_text_waits_for_no_longer_one_that_waits_as_well() -> None:
    long = ["x" * 4000 + str(number) for number in range(5)]
    passes = await behind_a_hanging_call(long, ["short"])  # a list of one caller is no block either
    assert passes == [["short"], *([text] for text in long)]


async def test_a_long_text_waits_its_time_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 10, perf_counter=time.perf_counter)
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    long = asyncio.create_task(thread.route(["x" * 4000]))
    await asyncio.sleep(0.02)
    monkeypatch.setattr("router.threaded.time", later)  # so the short one comes much later
    short = asyncio.create_task(thread.route(["short"]))
    await asyncio.sleep(0.02)
    router.let_go.set()
    await asyncio.gather(first, long, short)
    thread.close()
    assert router.calls[1:] == [["x" * 4000], ["short"]]


async def test_a_full_queue_takes_no_more_and_one_call_of_any_length() -> None:
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH, queued_texts=3)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    waiting = asyncio.create_task(thread.route(["a", "b"]))
    await asyncio.sleep(0)
    with pytest.raises(RouterFullError, match="2 texts wait"):
        await thread.route(["c", "d"])
    router.let_go.set()
    assert (await waiting).probabilities.shape == (2, 2)
    await first
    assert (await thread.route(["text"] * 5)).probabilities.shape == (5, 2)
    thread.close()
    assert router.calls[1] == ["a", "b"]


async def test_who_left_makes_room_in_the_queue() -> None:
    router = HangingRouter()
    thread = RouterThread(router, ENOUGH, queued_texts=3)
    first = asyncio.create_task(thread.route(["hang"]))
    await entered(router)
    left = asyncio.create_task(thread.route(["a", "b", "c"]))
    await asyncio.sleep(0)
    left.cancel()
    await asyncio.wait([left])
    stays = asyncio.create_task(thread.route(["d", "e"]))
    await asyncio.sleep(0)
    router.let_go.set()
    assert (await stays).probabilities.shape == (2, 2)
    await first
    thread.close()
    assert router.calls[1:] == [["d", "e"]]


async def test_a_timeout_that_the_router_raises_is_its_own_error() -> None:
    class Raising(HangingRouter):
        def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
            raise TimeoutError("of the router")

    thread = RouterThread(Raising(), ENOUGH)
    with pytest.raises(TimeoutError, match="of the router"):
        await thread.route(["text"])
    thread.close()


def test_a_process_whose_router_hangs_can_end() -> None:
    program = """
import asyncio, threading
from router.protocol import Router
from router.threaded import RouterThread, RouterTimeoutError

class Hangs(Router):
    labels = ()
    def probabilities(self, texts):
        threading.Event().wait()

async def main():
    thread = RouterThread(Hangs(), 0.1)
    try:
        await thread.route(["text"])
    except RouterTimeoutError:
        thread.close()
        print("closed")

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stdout.strip()) == (0, "closed"), done.stderr


class NiceRouter(Router):
    labels = ("expert-0",)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.niceness = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        return np.ones((len(texts), 1), np.float32)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is the whole process's")
async def test_the_router_gives_way_to_everything_else_of_the_process() -> None:
    router = NiceRouter()
    thread = RouterThread(router, ENOUGH)
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    await thread.route(["text"])
    thread.close()
    assert router.niceness == before + 10
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
