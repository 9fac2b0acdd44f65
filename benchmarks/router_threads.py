"""How many threads the router may have: what it gains by them, and what they take from an engine beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import c_double
from multiprocessing import get_context
from typing import Any

import numpy as np

from bundle.read import Bundle
from router.load import load_other_router
from router.protocol import Router

_THREADS = (1, 2)
_ALONE_SECONDS = 2.0
_ROUTER_SECONDS = 5.0
_WIDTH = 384
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def threads_beside_an_engine(bundle: Bundle, texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return, by the router's threads, its texts per second and the share of its speed that an engine keeps.

    The engine is one process that multiplies matrices on one thread without a pause, as vLLM does here under load;
    the router is the encoder alone, one text after the other.
    """
    found = {}
    with _engine() as rate:
        alone = rate(lambda: time.sleep(_ALONE_SECONDS))
        for threads in _THREADS:
            router = load_other_router(bundle, bundle.manifest.router.kind, threads)
            routed: list[float] = []
            beside = rate(lambda router=router, routed=routed: routed.append(_texts_per_s(router, texts)))
            found[str(threads)] = {"texts_per_s": routed[0], "engine_keeps": beside / alone}
    return found


def _texts_per_s(router: Router, texts: Sequence[str]) -> float:
    """Route for a few seconds, not a number of texts: two threads that share a busy core may take very long."""
    begin, routed = time.perf_counter(), 0
    while time.perf_counter() - begin < _ROUTER_SECONDS:
        router.probabilities([texts[routed % len(texts)]])
        routed += 1
    return routed / (time.perf_counter() - begin)


@contextmanager
def _engine() -> Iterator[Any]:
    context = get_context("spawn")
    steps: Any = context.Value(c_double, 0.0, lock=False)
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)  # read when the process imports numpy
    process = context.Process(target=_multiply, args=(steps,), daemon=True)
    process.start()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value

    def rate(work: Any) -> float:
        begin, at_begin = time.perf_counter(), steps.value
        work()
        return (steps.value - at_begin) / (time.perf_counter() - begin)

    try:
        while steps.value < 10:
            time.sleep(0.05)
        yield rate
    finally:
        process.kill()
        process.join()


def _multiply(steps: Any) -> None:
    matrix = np.eye(_WIDTH, dtype=np.float32)
    while True:
        matrix @ matrix
        steps.value += 1
