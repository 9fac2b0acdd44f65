"""What each router adds to the memory of a fresh process: its weights, and the libraries it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import psutil

from bundle.manifest import RouterKind
from bundle.read import Bundle, read_bundle
from router.load import load_other_router, load_router
from router.protocol import Router

Opener = Callable[[Bundle], Router]


def memories(bundle: Bundle, routers: Iterable[str], text: str) -> dict[str, float]:
    """Return megabytes by router, each after it has routed `text`; of those that a bundle or its run can open.

    The encoder in the precision that the bundle does not have is left out: its files are gone by then.
    """
    openers = {name: opener for name in routers if (opener := _opener(bundle, name)) is not None}
    return {name: _in_a_process(bundle.folder, opener, text) for name, opener in openers.items()}


def _opener(bundle: Bundle, name: str) -> Opener | None:
    served = bundle.manifest.router.kind
    if name == "gradient":
        return _gradient_router
    if name == served:
        return load_router
    if name == f"{served}-encoder":
        return partial(load_other_router, kind=served)
    for kind in get_args(RouterKind):
        if name == kind:
            return partial(load_other_router, kind=kind)
    return None


def _gradient_router(bundle: Bundle) -> Router:
    from benchmarks.router_contenders import gradient_router
    from benchmarks.router_rows import held_out_rows, run_stages, training_inputs

    stages = run_stages(bundle)
    assert stages is not None  # else there would be no gradient router to weigh
    return gradient_router(bundle, training_inputs(bundle), stages, held_out_rows(bundle).fitted.first(4))


def _in_a_process(folder: Path, opener: Opener, text: str) -> float:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_resident_mb, folder, opener, text).result()


def _resident_mb(folder: Path, opener: Opener, text: str) -> float:
    bundle, process = read_bundle(folder), psutil.Process()
    before = process.memory_info().rss
    opener(bundle).probabilities([text])
    return (process.memory_info().rss - before) / 1e6
