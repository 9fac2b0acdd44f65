"""What routing costs a request: through the service's own thread, nothing remembered, all routers in turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
from tokenizers import Tokenizer

from benchmarks.router_rows import Rows
from router.prompt_memory import PromptMemory
from router.protocol import Router
from router.served import ServedRouter
from router.threaded import QUEUED_TEXTS

LENGTHS = (16, 64, 128, 512)
CALLERS = 8
_SECONDS = 600.0  # no call is to end early
Window = Callable[[Sequence[str]], float]
"""Routes texts and returns the seconds it took."""


def served(router: Router) -> ServedRouter:
    """Return a router as the service runs it, with no memory of prompts: every text is routed."""
    return ServedRouter(router, PromptMemory("", 0), _SECONDS, QUEUED_TEXTS)


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99."""
    return {f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 95, 99)}


def texts_of_length(rows: Rows, tokenizer: Tokenizer, tokens: int, number: int) -> list[str]:
    """Return distinct texts of `tokens` tokens, special ones included: held-out texts of one label, joined and cut."""
    tokenizer.no_truncation()
    room = tokens - tokenizer.num_special_tokens_to_add(False)
    texts: list[str] = []
    for start in range(len(rows)):
        words = ""
        for place in range(start, start + len(rows)):
            if rows.labels[place % len(rows)] != rows.labels[start]:
                continue
            words = f"{words} {rows.texts[place % len(rows)]}".strip()
            found = tokenizer.encode(words, add_special_tokens=False)
            if len(found) >= room:
                texts.append(words[: found.offsets[room - 1][1]])
                break
        if len(texts) == number:
            break
    return texts


def latencies(routers: Mapping[str, Router], texts: Sequence[str]) -> dict[str, list[float]]:
    """Return each router's milliseconds per text `[n]`, one caller, the routers in turn, there and back."""

    async def measured() -> dict[str, list[float]]:
        running = {name: served(router) for name, router in routers.items()}
        found: dict[str, list[float]] = {name: [] for name in routers}
        try:
            for router in running.values():
                await router.route(["The first text of all costs more."])
            for place, text in enumerate(texts):
                for name in list(running)[:: 1 if place % 2 else -1]:
                    found[name].append(1000 * (await running[name].route([text])).seconds)
        finally:
            for router in running.values():
                router.close()
        return found

    return asyncio.run(measured())


def at_once(router: Router) -> Window:
    """Return a window in which eight callers route texts, each asking as soon as it was answered."""

    def window(texts: Sequence[str]) -> float:
        async def measured() -> float:
            running = served(router)
            left = iter(texts)

            async def caller() -> None:
                for text in left:
                    await running.route([text])

            start = time.perf_counter()
            try:
                await asyncio.gather(*(caller() for _ in range(CALLERS)))
            finally:
                running.close()
            return time.perf_counter() - start

        return asyncio.run(measured())

    return window


def throughputs(windows: Mapping[str, Window], texts: Sequence[str], rounds: int) -> dict[str, float]:
    """Return each window's texts per second: the median over rounds that go there and back (A B B A)."""
    found: dict[str, list[float]] = {name: [] for name in windows}
    for window in windows.values():
        window(texts[:4])
    for _ in range(rounds):
        for name in (*windows, *reversed(list(windows))):
            found[name].append(len(texts) / windows[name](texts))
    return {name: median(rates) for name, rates in found.items()}
