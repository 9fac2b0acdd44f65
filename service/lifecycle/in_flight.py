"""Requests that are being answered: how many may be, how long the end waits for them, how they are ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import ServiceError, ServiceUnavailableError, TooManyRequestsError
from service.lifecycle.lifecycle import Lifecycle
from service.telemetry.metrics import Metrics


class Slot:
    """One request's place; it knows the task that answers it."""

    def __init__(self, task: asyncio.Task[object] | None) -> None:
        """`task` is cancelled if the request has to end early; None if it ends by itself soon enough."""
        self._task = task
        self._ended_by: ServiceError | None = None

    def end(self, error: ServiceError) -> None:
        """Cancel the task, once."""
        if self._task is not None and self._ended_by is None:
            self._ended_by = error
            self._task.cancel()

    def absorb_cancellation(self) -> ServiceError | None:
        """Return why `end` cancelled the task, which may then go on and say so; None if it was not `end`."""
        if self._task is not None and self._ended_by is not None:
            self._task.uncancel()
        return self._ended_by


class InFlight:
    """The bound on requests, all of them ours to wait for and to end."""

    def __init__(self, limit: int, lifecycle: Lifecycle, metrics: Metrics) -> None:
        """`limit` is how many there may be."""
        self._limit = limit
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._slots: set[Slot] = set()
        metrics.in_flight.set_function(lambda: len(self._slots))
        self._empty = asyncio.Event()
        self._empty.set()

    def check(self) -> None:
        """Pass if one more may come now.

        Raises:
            ServiceUnavailableError: the service is not ready, or stops.
            TooManyRequestsError: the bound is reached.

        """
        if self._lifecycle.not_ready_because is not None:
            self._metrics.rejected.labels("not_ready").inc()
            raise ServiceUnavailableError(self._lifecycle.not_ready_because)
        if len(self._slots) >= self._limit:
            self._metrics.rejected.labels("in_flight").inc()
            raise TooManyRequestsError(f"{self._limit} requests are being answered, no more are taken now")

    @contextmanager
    def slot(self, endable: bool = True) -> Iterator[Slot]:
        """Take a place for the block; `endable` lets `end_all` cancel the current task. Raises as `check`."""
        self.check()
        slot = Slot(asyncio.current_task() if endable else None)
        self._slots.add(slot)
        self._empty.clear()
        try:
            yield slot
        finally:
            self._slots.remove(slot)
            if not self._slots:
                self._empty.set()

    def end_all(self, error: ServiceError) -> None:
        """End every request with this error."""
        for slot in tuple(self._slots):
            slot.end(error)

    async def wait_until_none(self) -> None:
        """Return when no request is being answered."""
        await self._empty.wait()
