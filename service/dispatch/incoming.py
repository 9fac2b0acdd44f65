"""A request on its way to the engine, as the rest of dispatch may have it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.types import Scope

from service.request.decision import Decided
from service.request.endpoints import Endpoint
from service.telemetry.record import RequestRecord


@dataclass(frozen=True)
class Incoming:
    """A request that was read and decided."""

    endpoint: Endpoint
    scope: Scope
    body: dict[str, Any]
    decided: Decided
    record: RequestRecord
