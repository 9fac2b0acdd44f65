"""A router as the service asks it: what it remembers, then what is answered at once, then its thread."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from router.cascade import CascadeRouter
from router.prompt_memory import PromptMemory
from router.protocol import Answer, Answers, Router
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
        answer, linear = self._memory.get(text), 0
        if answer is None:
            answer, linear = self._by_linear_model(text), 1
        if answer is None:
            return None
        row, unfamiliar = answer.probabilities[None, :], np.array([answer.unfamiliar])
        return Routed(row, time.perf_counter() - start, unfamiliar, 1 - linear, linear)

    async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
        """Return the answers to all texts; `since` (perf_counter) they were asked for `at_once`, in vain.

        Raises as `RouterThread.route`.
        """
        start = time.perf_counter() if since is None else since
        answers = Answers.of_nothing(len(texts), self._experts)
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        remembered = linear = 0
        rest = []
        for text, where in places.items():
            answer = self._memory.get(text) if since is None else None
            if answer is not None:
                remembered += len(where)
            elif since is None and self._cascade is not None:
                answer = self._by_linear_model(text)
                linear += len(where) if answer is not None else 0
                if len(places) > 1:
                    await asyncio.sleep(0)  # a long list holds up nobody's tokens
            if answer is None:
                rest.append(text)
            else:
                answers.put(where, answer)
        if rest:
            routed = await self._thread.route(rest)
            for text, row, unfamiliar in zip(rest, routed.probabilities, routed.unfamiliar, strict=True):
                answer = Answer(row, bool(unfamiliar))
                self._memory.put(text, answer)
                answers.put(places[text], answer)
        seconds = time.perf_counter() - start
        return Routed(answers.probabilities, seconds, answers.unfamiliar, remembered, linear)

    def _by_linear_model(self, text: str) -> Answer | None:
        """Return and remember what the cascade's linear model answers by itself; None: the text is the encoder's."""
        row = None if self._cascade is None else self._cascade.at_once(text)
        if row is None:
            return None
        answer = Answer(row, unfamiliar=False)  # else it would have left the text to the encoder
        self._memory.put(text, answer)
        return answer

    def close(self) -> None:
        """Take no more texts, and return when those under way are routed or the router hangs."""
        self._thread.close()
