"""A router beside an event loop, never in it, and never waited for without end."""

from __future__ import annotations

import asyncio
import heapq
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from router.protocol import Answer, Answers, Router

_CLOSE_SECONDS = 1.0  # ours: a forward pass takes milliseconds
_PASS_CHARACTERS = (
    1024  # ours: padded, about 256 tokens; a longer pass gains nothing and holds up who comes next
)
_PATIENCE = 1e-4  # ours: seconds a text may wait for each of its characters before a shorter one goes first
_NICE = 10  # ours: beside a busy thread it gets a tenth of a core, and a free core whole
QUEUED_TEXTS = 1024  # ours: four for each request that the service answers at once


class RouterTimeoutError(RuntimeError):
    """The router did not answer in time, or still hangs in an earlier call."""


class RouterFullError(RuntimeError):
    """More texts wait for the router than it takes."""


@dataclass(frozen=True)
class Routed:
    """The router's answer and what it cost the caller."""

    probabilities: NDArray[np.float32]
    """`[n, K]`, rows sum to one."""
    seconds: float
    """From the call to the answer: the wait behind earlier calls included."""
    unfamiliar: NDArray[np.bool_]
    """`[n]`: which of the texts are unlike anything in training."""
    remembered: int = 0
    """How many of the texts were not routed at all, because their answer was remembered."""
    linear: int = 0
    """How many of them a cascade's linear model answered."""


class _Call:
    """The texts that one caller waits for."""

    def __init__(self, texts: int, experts: int) -> None:
        self.answer: Future[Answers] = Future()
        self._answers = Answers.of_nothing(texts, experts)
        self._missing = texts

    def put(self, place: int, answer: Answer) -> None:
        self._answers.put(place, answer)
        self._missing -= 1
        if not self._missing and self.answer.set_running_or_notify_cancel():
            self.answer.set_result(self._answers)

    def fail(self, error: BaseException) -> None:
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(error)


@dataclass(frozen=True, order=True)
class _Waiting:
    """One text of a call. The one that runs out of patience first is routed first."""

    impatient_at: float
    number: int
    text: str = field(compare=False)
    place: int = field(compare=False)
    call: _Call = field(compare=False)


class RouterThread:
    """One worker thread that runs a router, so that tokens keep streaming meanwhile.

    Texts of several callers share a forward pass, as long as it stays small: padded to the longest, at most
    `_PASS_CHARACTERS`. A short text goes before longer ones that came a little earlier, and between the texts
    of a long list; who has waited long enough for its length goes first, so nobody waits for ever.

    A call that hangs can't be stopped, only left alone: its thread is a daemon that no exit waits for, no
    other thread is started, and until it returns every further call fails at once instead of queueing up.
    """

    def __init__(self, router: Router, seconds: float, queued_texts: int = QUEUED_TEXTS) -> None:
        """Start the thread.

        A call may take `seconds`, the wait behind earlier ones included; at most `queued_texts` wait, or one
        call's.
        """
        self.router = router
        self._seconds = seconds
        self._queued_texts = queued_texts
        self._waiting: list[_Waiting] = []
        self._numbers = 0
        self._changed = threading.Condition()
        self._running_since: float | None = None
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="router", daemon=True)
        self._worker.start()

    async def route(self, texts: Sequence[str]) -> Routed:
        """Return the answers to all texts. One that is cancelled before its turn never reaches the router.

        Raises:
            RouterTimeoutError: it took too long, or an earlier call still does.
            RouterFullError: too many texts wait already.
            RuntimeError: the thread was closed; or whatever the router raises.

        """
        start = time.perf_counter()
        if self._closed:
            raise RuntimeError("The router was closed")
        if self._hangs():
            raise RouterTimeoutError(f"The router has not come back from a call for over {self._seconds} s")
        if not texts:
            return Routed(np.zeros((0, len(self.router.labels)), np.float32), 0.0, np.zeros(0, dtype=bool))
        answer = self._queue(texts)
        try:
            async with asyncio.timeout(self._seconds) as limit:
                answers = await asyncio.wrap_future(answer)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the router's own
            raise RouterTimeoutError(f"The router did not answer within {self._seconds} s") from error
        return Routed(answers.probabilities, time.perf_counter() - start, answers.unfamiliar)

    def close(self) -> None:
        """Take no more calls, and return when those already made are answered or the router hangs."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join(_CLOSE_SECONDS)

    def _hangs(self) -> bool:
        since = self._running_since
        return since is not None and time.monotonic() - since > self._seconds

    def _queue(self, texts: Sequence[str]) -> Future[Answers]:
        call = _Call(len(texts), len(self.router.labels))
        with self._changed:
            if self._waiting and len(self._waiting) + len(texts) > self._queued_texts:
                self._forget_who_left()
            if self._waiting and len(self._waiting) + len(texts) > self._queued_texts:
                raise RouterFullError(
                    f"{len(self._waiting)} texts wait for the router, no more are taken now"
                )
            now = time.monotonic()
            for place, text in enumerate(texts):
                self._numbers += 1
                waiting = _Waiting(now + _PATIENCE * len(text), self._numbers, text, place, call)
                heapq.heappush(self._waiting, waiting)
            self._changed.notify()
        return call.answer

    def _forget_who_left(self) -> None:
        self._waiting = [waiting for waiting in self._waiting if not waiting.call.answer.done()]
        heapq.heapify(self._waiting)

    def _work(self) -> None:
        _give_way()
        while batch := self._next_pass():
            self._running_since = time.monotonic()
            try:
                self._answer(batch)
            finally:
                self._running_since = None

    def _next_pass(self) -> list[_Waiting]:
        """Wait for texts and take as many as go together; none once the thread is closed and idle."""
        batch: list[_Waiting] = []
        longest = 0
        with self._changed:
            while True:
                while self._waiting:
                    longest = max(longest, len(self._waiting[0].text))
                    if batch and (len(batch) + 1) * longest > _PASS_CHARACTERS:
                        return batch
                    waiting = heapq.heappop(self._waiting)
                    if not waiting.call.answer.done():  # else nobody waits for it any more
                        batch.append(waiting)
                if batch or self._closed:
                    return batch
                self._changed.wait()

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        shape = (len(batch), len(self.router.labels))
        try:
            answers = self.router.answers([waiting.text for waiting in batch])
            if answers.probabilities.shape != shape:
                raise ValueError(f"the router gave {answers.probabilities.shape} for {shape}")
        except BaseException as error:  # whatever ends a call, it must not end the thread
            if len(batch) == 1:
                batch[0].call.fail(error)
                return
            for waiting in batch:  # by itself, so that nobody pays for another's text
                if not waiting.call.answer.done():
                    self._answer([waiting])
            return
        for number, waiting in enumerate(batch):
            if not waiting.call.answer.done():
                waiting.call.put(waiting.place, answers.one(number))


def _give_way() -> None:
    """Let the engine and the event loop have a core before the current thread: tokens go before decisions."""
    if sys.platform == "linux":  # elsewhere niceness is the whole process's
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _NICE)
