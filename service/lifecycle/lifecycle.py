"""Whether the service is ready, why it ends, and with which exit code."""

from __future__ import annotations

import asyncio

STALLED = "The engine does not answer; it is waited for"


class Lifecycle:
    """Starting, ready, stopping; or the engine died. Nothing but the event loop's thread changes it."""

    def __init__(self) -> None:
        """Begin as starting."""
        self._because: str | None = "The engine is starting"
        self.stalled = False
        """Whether the engine has not moved for a while; it may again."""
        self.engine_is_dead = False
        self.exit_code = 0
        self.ending = asyncio.Event()
        """Set when the service is to end."""
        self.stop_now = asyncio.Event()
        """Set when nothing is to be waited for."""

    @property
    def not_ready_because(self) -> str | None:
        """Why requests can't be answered now; None if they can."""
        return self._because or (STALLED if self.stalled else None)

    def serving(self) -> None:
        """Become ready."""
        self._because = None

    def stop(self) -> None:
        """End because somebody asked for it: exit code 0; asked again, or while it ends, wait for nothing."""
        if not self._end("The service is stopping"):
            self.stop_now.set()

    def engine_died(self) -> None:
        """End because the engine can't answer any more: exit code 1, unless it was ending anyway."""
        self.engine_is_dead = True
        if self._end("The engine died"):
            self.exit_code = 1
        elif self.ending.is_set() and self.exit_code == 0:
            self.stop_now.set()  # no answer under way will be completed

    def _end(self, because: str) -> bool:
        """Return whether this is what ends it: the first reason counts."""
        if self._because is not None:
            return False
        self._because = because
        self.ending.set()
        return True
