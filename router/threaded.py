"""A router beside an event loop, never in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.protocol import Router


@dataclass(frozen=True)
class Classified:
    """The router's answer and what it cost the caller."""

    probabilities: NDArray[np.float32]
    """`[n, K]`, rows sum to one."""
    seconds: float
    """From the call to the answer: the wait behind earlier calls included."""


class RouterThread:
    """One worker thread that runs a router, so that tokens keep streaming meanwhile."""

    def __init__(self, router: Router) -> None:
        """Start no thread yet: the first call does."""
        self.router = router
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="router")

    async def classify(self, texts: Sequence[str]) -> Classified:
        """Return the probabilities of all texts; calls are answered in the order they came.

        Raises:
            RuntimeError: the thread was closed; or whatever the router raises.

        """
        start = time.perf_counter()
        loop = asyncio.get_running_loop()
        probabilities = await loop.run_in_executor(self._worker, self.router.probabilities, texts)
        return Classified(probabilities, time.perf_counter() - start)

    def close(self) -> None:
        """Take no more calls, and return when those already made are answered."""
        self._worker.shutdown(wait=True)
