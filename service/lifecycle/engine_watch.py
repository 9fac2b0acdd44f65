"""Watch the engine without asking a client: whether it lives, and whether it moves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from service.lifecycle.lifecycle import Lifecycle

_LOOK_SECONDS = 0.25  # ours: how soon a dead engine is noticed without a request
STALL_SECONDS = (
    6.0  # ours: a probe every 2 s then sees ready fail within 10; a step takes a second at the most
)
_ASK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class WatchedEngine(Protocol):
    """What is watched: `service.engine.engine.RunningEngine`."""

    @property
    def dead(self) -> bool:
        """Whether the engine can't answer any more."""

    async def ask_for_nothing(self) -> None:
        """Return when the engine has taken note, between two of its steps."""


async def watch_engine(engine: WatchedEngine, lifecycle: Lifecycle) -> None:
    """Keep `lifecycle` true: stalled while the engine does not answer, then moving again; return once it is dead."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Task[None] | None = None
    asked_at = answered_at = loop.time()
    try:
        while not engine.dead:
            await asyncio.sleep(_LOOK_SECONDS)
            now = loop.time()
            if asked is not None and asked.done():
                with contextlib.suppress(Exception):  # what it raises when it dies is said elsewhere
                    asked.result()
                asked, answered_at = None, now
                _set_stalled(lifecycle, False)
            if asked is None and now - answered_at >= _ASK_SECONDS:
                asked, asked_at = asyncio.create_task(engine.ask_for_nothing()), now
            if asked is not None and now - asked_at > STALL_SECONDS:
                _set_stalled(lifecycle, True)
    finally:
        if asked is not None:
            asked.cancel()
    lifecycle.engine_died()


def _set_stalled(lifecycle: Lifecycle, stalled: bool) -> None:
    if stalled != lifecycle.stalled:
        _log.warning("The engine %s", "does not answer" if stalled else "answers again")
    lifecycle.stalled = stalled
