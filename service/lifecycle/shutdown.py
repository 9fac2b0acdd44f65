"""The end of the service: every request gets its answer or an error, and none is cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from service.errors import ENGINE_DIED, ServiceUnavailableError
from service.lifecycle.in_flight import InFlight
from service.lifecycle.lifecycle import Lifecycle

_ERROR_SECONDS = 5.0  # ours: for sending an error to whoever still waits


async def wait_for_the_end(
    lifecycle: Lifecycle, in_flight: InFlight, shutdown_seconds: float, engine_death_seconds: float
) -> None:
    """Return when the service has to close its port.

    If it was asked to stop, answers under way may take `shutdown_seconds`; then an error ends them. If the
    engine died, the error ends them at once, and the port answers 503 for `engine_death_seconds` more.
    """
    await lifecycle.ending.wait()
    if lifecycle.exit_code == 0:
        await _first(shutdown_seconds, in_flight.wait_until_none(), lifecycle.stop_now.wait())
        in_flight.end_all(ServiceUnavailableError("The service stopped before this answer was complete"))
    else:
        in_flight.end_all(ServiceUnavailableError(ENGINE_DIED))
        await _first(engine_death_seconds, lifecycle.stop_now.wait())
    await _first(_ERROR_SECONDS, in_flight.wait_until_none())


async def _first(seconds: float, *waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of these returns, or for some seconds; cancel what has not."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
