"""How a request ended, whoever asks: metrics, log and traces all read it here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from service.layers.observation import Observation
from service.request.names import ModelNames
from service.telemetry.metrics import Metrics
from service.telemetry.record import record_of
from tests.stand_ins.dispatch_setup import small_manifest

TARGET = ModelNames(small_manifest()).experts[0]
START: Message = {"type": "http.response.start", "status": 200}
REFUSED: Message = {"type": "http.response.start", "status": 400}
PART: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
END: Message = {"type": "http.response.body", "body": b""}


@pytest.mark.parametrize(
    ("sent", "part", "error", "code"),
    [
        ([START, PART, END], "200", None, "200"),
        ([REFUSED, END], "400", None, "400"),
        ([START, PART], "200", None, "499"),  # nobody took the rest
        ([], None, None, "499"),  # gone before the body was complete
        ([START, END], "499", None, "499"),  # what the engine answers to nobody is no answer
        ([REFUSED, END], "499", None, "400"),  # one part failed, the other was stopped
        ([], None, RuntimeError(), "500"),
        ([START, PART], "500", RuntimeError(), "500"),
    ],
)
async def test_the_code_says_what_the_client_got(
    sent: list[Message], part: str | None, error: Exception | None, code: str
) -> None:
    records: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        record = record_of(scope)
        records.append(record)
        if part is not None:
            record.end_generation(record.begin_generation(TARGET, dict(scope)), part, None)
        for message in sent:
            await send(message)
        if error is not None:
            raise error

    await _run(app, expects=type(error) if error else None)
    assert records[0].code == code


async def _run(app: Callable[..., Any], expects: type[Exception] | None) -> None:
    async def send(message: Message) -> None: ...

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    observed = Observation(app, Metrics(CollectorRegistry()))
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    if expects is None:
        await observed(scope, receive, send)
    else:
        with pytest.raises(expects):
            await observed(scope, receive, send)
