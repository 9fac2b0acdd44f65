"""What of a cascade needs no thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from router.cascade import CascadeRouter
from router.prompt_memory import PromptMemory
from router.protocol import Router
from router.served import ServedRouter


class Encoder(Router):
    labels = ("expert-0", "expert-1")

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.let_go = threading.Event()

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.let_go.wait()
        self.seen += texts
        return np.tile(np.array([[0.1, 0.9]], np.float32), (len(texts), 1))


class Linear:
    """Sure of texts that begin with "sure"."""

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.seen: list[str] = []

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.threads.add(threading.current_thread().name)
        self.seen += texts
        return np.array([[1, 0] if text.startswith("sure") else [0, 0] for text in texts], np.float32)

    def confidence(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        return scores[:, 0].astype(np.float64)

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.tile(np.array([[0.75, 0.25]], np.float32), (len(scores), 1))


class Setup:
    def __init__(self, entries: int = 0) -> None:
        self.encoder, self.linear = Encoder(), Linear()
        cascade = CascadeRouter(self.linear, self.encoder, 0.9)  # type: ignore[arg-type]
        self.served = ServedRouter(cascade, PromptMemory("bundle", entries), 60, 1024)


async def test_what_the_linear_model_is_sure_of_waits_for_no_encoder() -> None:
    setup = Setup()
    waits = asyncio.create_task(setup.served.route(["unsure"]))
    await asyncio.sleep(0.02)
    answer = await asyncio.wait_for(setup.served.route(["sure a", "sure b"]), 120)  # the encoder still hangs
    assert answer.probabilities.tolist() == [[0.75, 0.25]] * 2
    assert (answer.linear, answer.remembered) == (2, 0)
    assert not waits.done()
    setup.encoder.let_go.set()
    assert (await waits).probabilities.tolist() == [[pytest.approx(0.1), pytest.approx(0.9)]]
    setup.served.close()


async def test_the_encoder_gets_the_rest_and_the_linear_model_sees_each_text_once() -> None:
    setup = Setup()
    setup.encoder.let_go.set()
    answer = await setup.served.route(["sure a", "b", "sure c", "d", "b"])
    assert answer.probabilities[:, 0].tolist() == pytest.approx([0.75, 0.1, 0.75, 0.1, 0.1])
    assert answer.linear == 2
    assert sorted(setup.encoder.seen) == ["b", "d"]
    assert setup.linear.threads == {threading.main_thread().name}
    setup.served.close()


async def test_a_text_is_answered_at_once_or_left_to_the_encoder_alone() -> None:
    setup = Setup(entries=10)
    setup.encoder.let_go.set()
    sure = setup.served.at_once("sure a")
    assert sure is not None
    assert (sure.probabilities.tolist(), sure.linear, sure.remembered) == ([[0.75, 0.25]], 1, 0)
    assert setup.served.at_once("b") is None
    before = time.perf_counter() - 5
    answer = await setup.served.route(["b"], since=before)
    assert answer.probabilities[:, 0].tolist() == pytest.approx([0.1])
    assert answer.seconds > 5  # from when it was asked first
    assert setup.linear.seen == ["sure a", "b"]  # not asked for "b" once more
    again = [setup.served.at_once(text) for text in ("sure a", "b")]
    assert [(each.linear, each.remembered) for each in again if each is not None] == [(0, 1)] * 2
    setup.served.close()


async def test_tokens_keep_streaming_beside_a_long_list() -> None:
    setup = Setup()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticker = asyncio.create_task(tick())
    await setup.served.route([f"sure {number}" for number in range(100)])
    ticker.cancel()
    assert ticks >= 90
    setup.encoder.let_go.set()
    setup.served.close()


async def test_both_ends_are_remembered() -> None:
    setup = Setup(entries=10)
    setup.encoder.let_go.set()
    await setup.served.route(["sure a", "b"])
    again = await setup.served.route(["b", "sure a"])
    assert (again.remembered, again.linear) == (2, 0)
    assert again.probabilities[:, 0].tolist() == pytest.approx([0.1, 0.75])
    assert setup.encoder.seen == ["b"]
    setup.served.close()
