"""SIGTERM and Ctrl-C: they end the service, and neither ever reaches the engine before us."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from types import FrameType, TracebackType

_ENDING = {signal.SIGINT, signal.SIGTERM}
_RELAY = signal.SIGUSR2


class StoppedError(SystemExit):
    """Somebody asked the service to stop before it was ready.

    No KeyboardInterrupt: vLLM swallows one while it waits for its engine, and then waits for good. And nothing else: an
    event loop that a signal finds waiting lets only these two out.
    """


class Signals:
    """A context in which SIGTERM and Ctrl-C are ours; to be entered before anything starts a thread.

    A terminal sends Ctrl-C to every process of the group; `timeout` and systemd do so with SIGTERM. vLLM's
    processes abort what they generate on either. A blocked signal stays blocked in child processes, so both
    are blocked here until the engine has started; meanwhile a thread waits for them and turns them into a
    signal of our own, which interrupts the start. The engine's processes keep both blocked for good: vLLM
    ends them with SIGKILL.
    """

    def __init__(self) -> None:
        """Nothing happens before the context is entered."""
        self._on_stop: Callable[[], None] | None = None
        self._asked = False
        self._over = threading.Event()
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> Signals:
        resource_tracker.ensure_running()  # starting it later would unblock both in this thread
        self._handlers = {number: signal.signal(number, self._received) for number in (*_ENDING, _RELAY)}
        signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        threading.Thread(target=self._relay, name="signals", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def serving(self, on_stop: Callable[[], None]) -> None:
        """From now on every signal calls `on_stop`."""
        self._on_stop = on_stop
        self._over.set()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    def _received(self, number: int, frame: FrameType | None) -> None:
        again, self._asked = self._asked, True
        if self._on_stop is not None:
            self._on_stop()
        elif not again:  # a second one must not interrupt the clean-up after the first
            raise StoppedError

    def _relay(self) -> None:
        while not self._over.is_set():
            if signal.sigtimedwait(_ENDING, 0.2) is not None:
                signal.pthread_kill(threading.main_thread().ident or 0, _RELAY)
