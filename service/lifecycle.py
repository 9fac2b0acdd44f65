"""Whether the service is ready, why it ends, and with which exit code."""

from __future__ import annotations

from collections.abc import Callable


class Lifecycle:
    """Starting, ready, stopping; or the engine died. Nothing but the event loop's thread changes it."""

    def __init__(self) -> None:
        """Begin as starting."""
        self.not_ready_because: str | None = "The engine is starting"
        self.exit_code = 0
        self._close: Callable[[], None] | None = None

    def serving(self, close: Callable[[], None]) -> None:
        """Become ready; `close` lets the HTTP server finish what it has and return."""
        self._close = close
        self.not_ready_because = None

    def stop(self) -> None:
        """End because somebody asked for it: exit code 0."""
        self._end("The service is stopping")

    def engine_died(self) -> None:
        """End because the engine can't answer any more: exit code 1."""
        if self._end("The engine died"):
            self.exit_code = 1

    def _end(self, because: str) -> bool:
        """Return whether this is what ends it: the first reason counts."""
        if self._close is None or self.not_ready_because is not None:
            return False
        self.not_ready_because = because
        self._close()
        return True
