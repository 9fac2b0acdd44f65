"""SIGTERM and Ctrl-C: they end the service, and a Ctrl-C never reaches the engine before us."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from types import FrameType, TracebackType


class StoppedError(BaseException):
    """Somebody asked the service to stop before it was ready.

    No KeyboardInterrupt: vLLM swallows one while it waits for its engine, and then waits for good.
    """


class Signals:
    """A context in which SIGTERM and Ctrl-C are ours; to be entered before anything starts a thread.

    A terminal sends Ctrl-C to every process of the group, and vLLM's processes abort what they generate
    on it. A blocked signal stays blocked in child processes, so SIGINT is blocked here until the engine
    has started; meanwhile a thread waits for it and turns it into SIGTERM, which is not blocked.
    """

    def __init__(self) -> None:
        """Nothing happens before the context is entered."""
        self._on_stop: Callable[[bool], None] | None = None
        self._asked = False
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Signals:
        resource_tracker.ensure_running()  # starting it later would unblock SIGINT in this thread
        self._handlers = {
            number: signal.signal(number, self._received) for number in (signal.SIGINT, signal.SIGTERM)
        }
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        threading.Thread(target=self._wait_for_ctrl_c, name="ctrl-c", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def serving(self, on_stop: Callable[[bool], None]) -> None:
        """From now on a signal calls `on_stop(False)` and every further one `on_stop(True)`."""
        self._on_stop = on_stop
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    def _received(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if self._on_stop is not None:
            self._on_stop(again)
        elif not again:  # a second one must not interrupt the clean-up after the first
            raise StoppedError

    def _wait_for_ctrl_c(self) -> None:
        while self._on_stop is None:
            if signal.sigtimedwait({signal.SIGINT}, 0.2) is not None:
                os.kill(os.getpid(), signal.SIGTERM)
