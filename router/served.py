"""A router as the service asks it: what it remembers, then what is answered at once, then its thread."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.prompt_memory import PromptMemory
from router.protocol import Router
from router.threaded import Classified, RouterThread


class ServedRouter:
    """A router's thread, and in front of it, in the event loop, the memory of repeated prompts."""

    def __init__(self, router: Router, thread: RouterThread, memory: PromptMemory) -> None:
        """`thread` runs `router`; `memory` is of the same bundle."""
        self._experts = len(router.labels)
        self._thread = thread
        self._memory = memory

    async def classify(self, texts: Sequence[str]) -> Classified:
        """Return the probabilities of all texts. Raises as `RouterThread.classify`."""
        start = time.perf_counter()
        rows = np.zeros((len(texts), self._experts), np.float32)  # [n, K]
        unknown: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            row = self._memory.get(text)
            if row is None:
                unknown.setdefault(text, []).append(place)
            else:
                rows[place] = row
        if unknown:
            found = await self._thread.classify(list(unknown))
            for (text, places), row in zip(unknown.items(), found.probabilities, strict=True):
                rows[places] = row
                self._memory.put(text, row)
        remembered = len(texts) - sum(map(len, unknown.values()))
        return Classified(rows, time.perf_counter() - start, remembered)

    def close(self) -> None:
        """As `RouterThread.close`."""
        self._thread.close()
