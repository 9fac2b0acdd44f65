"""No process outlives the service, however it ends: a small process watches it, and ends what it leaves behind.

Killed (-9, out of memory) or hung up on during the start, the service can end nothing itself, and vLLM's processes
would stay and keep their memory. The guardian is started before anything else, in a session of its own, so that no
signal to the service's group reaches it. It runs this file as a script: the standard library is all it imports.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

_LOOK_SECONDS = 0.2  # ours: what the service starts and leaves within less is not seen
_GRACE_SECONDS = 1.0  # ours: Python's own cleaner of shared memory leaves by itself
_guardians: set[int] = set()


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Have a guardian for the block; it is ended with it."""
    if sys.platform != "linux":  # elsewhere there is no /proc to look at
        yield
        return
    guardian = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    _guardians.add(guardian.pid)
    try:
        yield
    finally:
        _guardians.discard(guardian.pid)
        guardian.kill()
        guardian.wait()


def guardians() -> frozenset[int]:
    """Return the process ids of the guardians that run: the service must not end them with what it started."""
    return frozenset(_guardians)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:
                found += map(int, file.read().split())
    return found


def _family(roots: list[int]) -> set[int]:
    family: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in family:
            family.add(pid)
            waiting += _children(pid)
    return family


def _started_at(pid: int) -> str | None:
    """Return when a process was started, which tells it from a later one of the same number; None: it is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *rest = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]


def _watch(service: int) -> None:
    """Wait for the end of the service, whose child this process is, and end what descends from it."""
    known: dict[int, str | None] = {}
    while os.getppid() == service:
        for pid in _family(_children(service)) - {os.getpid()}:
            if pid not in known:
                known[pid] = _started_at(pid)
        time.sleep(_LOOK_SECONDS)
    time.sleep(_GRACE_SECONDS)
    for pid in _family([pid for pid, start in known.items() if start and _started_at(pid) == start]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
