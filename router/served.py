"""A router as the service asks it: what it remembers, then what is answered at once, then its thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.cascade import CascadeRouter
from router.prompt_memory import PromptMemory
from router.protocol import Router
from router.threaded import Routed, RouterThread


class ServedRouter:
    """A router's thread, and in front of it, in the event loop, what needs none.

    A repeated prompt is remembered, and of a cascade the linear model answers here: it takes less time than the way
    to the thread and back (docs/measurements/router-speed.md). What it is not sure of goes to the thread, which runs
    the encoder.
    """

    def __init__(self, router: Router, memory: PromptMemory, seconds: float, queued_texts: int) -> None:
        """Start the thread; `seconds` and `queued_texts` are its bounds, `memory` is of the same bundle."""
        self._experts = len(router.labels)
        self._memory = memory
        self._cascade = router if isinstance(router, CascadeRouter) else None
        on_thread = router.encoder if isinstance(router, CascadeRouter) else router
        self._thread = RouterThread(on_thread, seconds, queued_texts)

    def at_once(self, text: str) -> Routed | None:
        """Return the answer of a text that waits for nothing; None: `route` has it, and need not look again."""
        start = time.perf_counter()
        row, linear = self._memory.get(text), 0
        if row is None:
            row, linear = self._by_linear_model(text), 1
        if row is None:
            return None
        return Routed(row[None, :], time.perf_counter() - start, 1 - linear, linear)

    async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
        """Return the probabilities of all texts; `since` (perf_counter) they were asked for `at_once`, in vain.

        Raises as `RouterThread.route`.
        """
        start = time.perf_counter() if since is None else since
        rows = np.zeros((len(texts), self._experts), np.float32)  # [n, K]
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        remembered = linear = 0
        rest = []
        for text, where in places.items():
            row = self._memory.get(text) if since is None else None
            if row is not None:
                remembered += len(where)
            elif since is None and self._cascade is not None:
                row = self._by_linear_model(text)
                linear += len(where) if row is not None else 0
                if len(places) > 1:
                    await asyncio.sleep(0)  # a long list holds up nobody's tokens
            if row is None:
                rest.append(text)
            else:
                rows[where] = row
        if rest:
            routed = (await self._thread.route(rest)).probabilities
            for text, row in zip(rest, routed, strict=True):
                self._memory.put(text, row)
                rows[places[text]] = row
        return Routed(rows, time.perf_counter() - start, remembered, linear)

    def _by_linear_model(self, text: str) -> NDArray[np.float32] | None:
        """Return a row `[K]` that the cascade's linear model is sure of, and remember it; None: it is the encoder's."""
        row = None if self._cascade is None else self._cascade.at_once(text)
        if row is not None:
            self._memory.put(text, row)
        return row

    def close(self) -> None:
        """Take no more texts, and return when those under way are routed or the router hangs."""
        self._thread.close()
