"""A router beside an event loop, never in it, and never waited for without end."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.protocol import Router

_CLOSE_SECONDS = 1.0  # ours: a forward pass takes milliseconds


class RouterTimeoutError(RuntimeError):
    """The router did not answer in time, or still hangs in an earlier call."""


@dataclass(frozen=True)
class Classified:
    """The router's answer and what it cost the caller."""

    probabilities: NDArray[np.float32]
    """`[n, K]`, rows sum to one."""
    seconds: float
    """From the call to the answer: the wait behind earlier calls included."""


@dataclass(frozen=True)
class _Call:
    texts: Sequence[str]
    answer: Future[NDArray[np.float32]]


class RouterThread:
    """One worker thread that runs a router, so that tokens keep streaming meanwhile.

    A call that hangs can't be stopped, only left alone: its thread is a daemon that no exit waits for, no
    other thread is started, and until it returns every further call fails at once instead of queueing up.
    """

    def __init__(self, router: Router, seconds: float) -> None:
        """Start the thread; a call may take `seconds`, the wait behind earlier ones included."""
        self.router = router
        self._seconds = seconds
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._running_since: float | None = None
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="router", daemon=True)
        self._worker.start()

    async def classify(self, texts: Sequence[str]) -> Classified:
        """Return the probabilities of all texts; calls are answered in the order they came.

        One that is cancelled before its turn never reaches the router.

        Raises:
            RouterTimeoutError: it took too long, or an earlier call still does.
            RuntimeError: the thread was closed; or whatever the router raises.

        """
        start = time.perf_counter()
        if self._closed:
            raise RuntimeError("The router was closed")
        if self._hangs():
            raise RouterTimeoutError(f"The router has not come back from a call for over {self._seconds} s")
        call = _Call(texts, Future())
        self._calls.put(call)
        try:
            async with asyncio.timeout(self._seconds) as limit:
                probabilities = await asyncio.wrap_future(call.answer)
        except TimeoutError as error:
            if not limit.expired():
                raise  # the router's own
            raise RouterTimeoutError(f"The router did not answer within {self._seconds} s") from error
        return Classified(probabilities, time.perf_counter() - start)

    def close(self) -> None:
        """Take no more calls, and return when those already made are answered or the router hangs."""
        self._closed = True
        self._calls.put(None)
        self._worker.join(_CLOSE_SECONDS)

    def _hangs(self) -> bool:
        since = self._running_since
        return since is not None and time.monotonic() - since > self._seconds

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if not call.answer.set_running_or_notify_cancel():
                continue
            self._running_since = time.monotonic()
            try:
                probabilities = self.router.probabilities(call.texts)
            except BaseException as error:  # whatever ends a call, it must not end the thread
                call.answer.set_exception(error)
            else:
                call.answer.set_result(probabilities)
            finally:
                self._running_since = None
