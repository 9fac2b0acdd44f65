"""The processes that the engine started: none outlives the service."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from multiprocessing import resource_tracker

import psutil

_LEAVE_SECONDS = 3.0  # ours: vLLM's workers leave by themselves once their parent is gone


def descendants(but: Collection[int] = ()) -> list[psutil.Process]:
    """Return every process that descends from this one, but for `but` and Python's own that cleans up after it."""
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)  # type: ignore[attr-defined]
    return [
        process for process in psutil.Process().children(recursive=True) if process.pid not in {tracker, *but}
    ]


def end_leftovers(family: Sequence[psutil.Process]) -> None:
    """End what is still there of them: an engine that was killed can't end its own workers."""
    _, left = psutil.wait_procs(family, timeout=_LEAVE_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
