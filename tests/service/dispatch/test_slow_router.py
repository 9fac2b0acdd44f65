"""A router that is slow, raises or hangs, behind the real dispatch and the real router thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from router.prompt_memory import PromptMemory
from router.protocol import Router
from router.served import ServedRouter
from service import headers
from tests.stand_ins.dispatch_setup import EXPERTS, JSON, Setup

ENOUGH = 120.0  # seconds, to end a test that hangs


class HeldRouter(Router):
    """Answers nothing until it is let go; then the digit that a text begins with decides."""

    labels = EXPERTS

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.seen: list[str] = []
        self.passes = 0

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.entered.set()
        self.let_go.wait()
        self.seen += texts
        self.passes += 1
        return np.eye(len(EXPERTS), dtype=np.float32)[[int(text[0]) for text in texts]]


@pytest.fixture
def held() -> Iterator[HeldRouter]:
    router = HeldRouter()
    yield router
    router.let_go.set()


def served(router: HeldRouter, seconds: float) -> ServedRouter:
    return ServedRouter(router, PromptMemory("bundle", 0), seconds, 1024)


async def entered(router: HeldRouter) -> None:
    async with asyncio.timeout(ENOUGH):
        while not router.entered.is_set():
            await asyncio.sleep(0.01)


async def test_no_byte_of_a_stream_waits_for_a_neighbours_classification(held: HeldRouter) -> None:
    setup = Setup(served(held, 60))
    neighbour = asyncio.create_task(setup.post("/v1/completions", {"prompt": "1 a"}))
    await entered(held)
    stream = {"model": "expert-2", "prompt": ["0 b"], "stream": True}
    answer = await asyncio.wait_for(setup.post("/v1/completions", stream), 120)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert answer.headers[headers.REASON] == "named"
    assert not neighbour.done(), "the neighbour should still be routed"
    held.let_go.set()
    assert (await neighbour).headers[headers.EXPERT] == "expert-1"


async def test_a_hanging_router_leaves_every_request_to_the_fallback(held: HeldRouter) -> None:
    setup = Setup(served(held, 0.2), limit=2000)
    for _ in range(2):  # the second round meets a router that is known to hang
        asked = (setup.post("/v1/completions", {"prompt": f"1 {place}"}) for place in range(50))
        for answer in await asyncio.wait_for(asyncio.gather(*asked), 120):
            assert answer.status_code == 200
            assert answer.headers[headers.EXPERT] == "fallback"
            assert answer.headers[headers.REASON] == "router_error"
    assert setup.count("fallbacks_total", reason="router_error") == 100
    assert setup.count("in_flight") == 0
    held.let_go.set()
    async with asyncio.timeout(ENOUGH):
        while (await setup.post("/v1/completions", {"prompt": "1 z"})).headers[headers.REASON] != "routed":
            await asyncio.sleep(0.01)
    assert held.passes == 2, "texts were routed that nobody waited for any more"


async def test_who_leaves_while_the_router_works_is_not_answered_and_not_routed(held: HeldRouter) -> None:
    setup = Setup(served(held, 60))
    first = asyncio.create_task(setup.post("/v1/completions", {"prompt": "1 a"}))
    await entered(held)
    left = asyncio.Event()
    body = [{"type": "http.request", "body": b'{"prompt": "2 left"}', "more_body": False}]

    async def receive() -> dict[str, object]:
        if body:
            return body.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        raise AssertionError("nobody is there to send to")

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": JSON}
    leaver = asyncio.create_task(setup.app(scope, receive, send))
    async with asyncio.timeout(ENOUGH):
        while setup.count("in_flight") != 2:
            await asyncio.sleep(0.01)
    left.set()
    await asyncio.wait_for(leaver, 120)  # while the router is still held
    assert setup.count("in_flight") == 1
    held.let_go.set()
    assert (await first).status_code == 200
    assert (await setup.post("/v1/completions", {"prompt": "0 next"})).status_code == 200
    assert held.seen == ["1 a", "0 next"]
    assert len(setup.inner.bodies) == 2
    labels = {"expert": "none", "endpoint": "/v1/completions", "reason": "none", "code": "499"}
    assert setup.count("requests_total", **labels) == 1
