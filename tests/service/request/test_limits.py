"""What is refused before it is routed: too much of anything, too many at once, or while the service ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from service import headers
from service.errors import BadRequestError, ContextLengthError
from service.lifecycle.shutdown import wait_for_the_end
from service.request.endpoints import ENDPOINTS
from service.request.limits import RequestLimits
from service.telemetry.metrics import Metrics
from tests.stand_ins.dispatch_setup import LIMITS, Letters, Setup

ASKED = {"prompt": "1 hello"}


@pytest.mark.parametrize(
    ("path", "body", "param", "reason"),
    [
        ("/v1/completions", ASKED | {"max_tokens": 101}, "max_tokens", "max_tokens"),
        ("/v1/completions", ASKED | {"max_tokens": 1e30}, "max_tokens", "max_tokens"),
        ("/v1/chat/completions", {"max_completion_tokens": 101}, "max_completion_tokens", "max_tokens"),
        ("/v1/responses", {"input": "1", "max_output_tokens": 101}, "max_output_tokens", "max_tokens"),
        ("/v1/messages", {"max_tokens": 10**12}, "max_tokens", "max_tokens"),
        ("/v1/completions", ASKED | {"n": 17}, "n", "n"),
        ("/v1/completions", {"prompt": ["1"] * 17}, "prompt", "n"),
        ("/v1/completions", {"prompt": ["1"] * 6, "n": 3}, "prompt", "n"),
        ("/v1/completions", {"prompt": "1" * 65}, "prompt", "prompt_tokens"),
        ("/v1/completions", {"prompt": ["1", "1" * 65]}, "prompt", "prompt_tokens"),
        ("/v1/completions", {"prompt": [49] * 65}, "prompt", "prompt_tokens"),
        ("/v1/completions", {"prompt": [[49], [49] * 65]}, "prompt", "prompt_tokens"),
        ("/v1/responses", {"input": "1" * 65}, "input", "prompt_tokens"),
        ("/v1/messages", {"messages": [{"role": "user", "content": "1" * 65}]}, "messages", "prompt_tokens"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "1" * 65}]}]},
            "messages",
            "prompt_tokens",
        ),
    ],
)
async def test_too_much_is_a_400_that_names_the_field_and_the_limit(
    path: str, body: dict[str, Any], param: str, reason: str
) -> None:
    setup = Setup()
    answer = await setup.post(path, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    limit = {"max_tokens": 100, "n": 16, "prompt_tokens": 64}[reason]
    assert str(limit) in error["message"]
    assert error["code"] == ("context_length_exceeded" if reason == "prompt_tokens" else 400)
    assert setup.inner.bodies == []
    assert setup.router.seen == [], "it was routed first"
    assert setup.count("rejected_total", reason=reason) == 1
    assert setup.count("requests_total", expert="none", endpoint=path, reason="none", code="400") == 1


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "1" * 64, "max_tokens": 100, "n": 16},
        {"prompt": ["1"] * 4, "n": 4},
        {"prompt": ["1" * 64, "1" * 64]},
        {"prompt": [49] * 64},
    ],
)
async def test_just_within_the_limits(body: dict[str, Any]) -> None:
    setup = Setup()
    assert (await setup.post("/v1/completions", body)).status_code == 200


async def test_what_is_no_number_is_left_to_the_engine() -> None:
    setup = Setup()
    for value in ("many", None, [1], True, {"a": 1}):
        assert (await setup.post("/v1/completions", ASKED | {"max_tokens": value})).status_code == 200
    assert len(setup.inner.bodies) == 5


LONG = "1" * 65
CONVERSATION = [
    {"role": "system", "content": LONG, "name": LONG},
    {"role": "user", "content": "1", "id": LONG},
    {"role": "assistant", "content": "a", "reasoning_content": LONG, "tool_calls": [{"id": LONG}]},
    {"role": "tool", "content": LONG, "tool_call_id": LONG},
    {"role": "user", "content": f"1{' ' * 65}"},
]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": CONVERSATION, "metadata": {"a": LONG}, "unknown": LONG}),
        ("/v1/messages", {"messages": [CONVERSATION[1]], "system": LONG, "metadata": {"user_id": LONG}}),
        ("/v1/responses", {"input": "1", "instructions": LONG, "user": LONG}),
        ("/v1/responses", {"input": LONG, "truncation": "auto"}),
        ("/v1/completions", {"prompt": LONG, "truncate_prompt_tokens": 8}),
        ("/tokenize", {"prompt": LONG, "max_tokens": 10_000}),
        ("/tokenize", {"messages": [{"role": "user", "content": LONG}]}),
        ("/detokenize", {"tokens": [49] * 65}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": LONG}]}),
    ],
    ids=str,
)
async def test_nothing_is_refused_that_the_engine_may_take(path: str, body: dict[str, Any]) -> None:
    setup = Setup()
    limits = RequestLimits(LIMITS, Letters(), setup.metrics.rejected)
    limits.check(ENDPOINTS[path], body)
    assert setup.count("rejected_total", reason="prompt_tokens") == 0


async def test_a_text_is_only_too_long_if_no_tokens_are_long_enough() -> None:
    class Pairs(Letters):
        def get_vocab(self) -> dict[str, int]:
            return {"aa": 0}

    limits = RequestLimits(LIMITS, Pairs(), Metrics(CollectorRegistry()).rejected)
    limits.check(ENDPOINTS["/v1/completions"], {"prompt": "1" * 128})
    with pytest.raises(ContextLengthError, match="at least 65 tokens > 64 maximum"):
        limits.check(ENDPOINTS["/v1/completions"], {"prompt": "1" * 129})


def streaming(setup: Setup, count: int) -> list[asyncio.Task[httpx.Response]]:
    setup.inner.hang_for = "expert-1"
    return [asyncio.create_task(setup.post("/v1/completions", ASKED)) for _ in range(count)]


async def until(condition: Any) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0)


async def test_above_the_bound_a_429_says_when_to_come_again() -> None:
    setup = Setup(limit=2)
    tasks = streaming(setup, 2)
    await until(lambda: len(setup.inner.bodies) == 2)

    async def unread() -> AsyncIterator[bytes]:
        raise AssertionError("a body was read")
        yield b""

    answer = await setup.post("/v1/completions", None, content=unread())
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["type"] == "RateLimitError"
    assert "2 requests" in answer.json()["error"]["message"]
    assert setup.count("rejected_total", reason="in_flight") == 1
    assert (
        setup.count("requests_total", expert="none", endpoint="/v1/completions", reason="none", code="429")
        == 1
    )
    assert setup.count("in_flight") == 2
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert setup.count("in_flight") == 0
    setup.inner.hang_for = None
    assert (await setup.post("/v1/completions", ASKED)).status_code == 200


ANNOUNCED = {"content-type": "application/json"}


async def test_a_body_that_comes_slowly_holds_no_place() -> None:
    setup = Setup(limit=1)
    arrive = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"prompt"'
        await arrive.wait()
        yield b': "2 late"}'

    task = asyncio.create_task(setup.post("/v1/completions", None, content=slow(), headers=ANNOUNCED))
    await asyncio.sleep(0.01)
    assert (await setup.post("/v1/completions", ASKED)).status_code == 200
    arrive.set()
    assert (await task).status_code == 200


async def test_while_the_service_ends_nothing_more_is_taken_and_what_runs_gets_an_error_at_the_limit() -> (
    None
):
    setup = Setup()
    tasks = streaming(setup, 3)
    await until(lambda: len(setup.inner.bodies) == 3)
    setup.lifecycle.stop()
    refused = await setup.post("/v1/completions", ASKED)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["message"] == "The service is stopping"
    await asyncio.wait_for(wait_for_the_end(setup.lifecycle, setup.in_flight, 0.1, 0), 120)
    for answer in await asyncio.gather(*tasks):
        assert answer.status_code == 503
        assert "before this answer was complete" in answer.json()["error"]["message"]
        assert answer.headers[headers.EXPERT] == "expert-1"
    labels = {"expert": "expert-1", "endpoint": "/v1/completions", "reason": "routed"}
    assert setup.count("requests_total", **labels, code="503") == 3


async def test_a_request_that_was_ended_is_cancelled_no_longer() -> None:
    setup = Setup()

    async def ended() -> int:
        with setup.in_flight.slot() as slot:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                assert slot.absorb_cancellation() is not None
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    task = asyncio.create_task(ended())
    await asyncio.sleep(0)
    setup.in_flight.end_all(BadRequestError("over"))
    assert await task == 0


async def test_a_second_signal_ends_what_runs_at_once() -> None:
    setup = Setup()
    tasks = streaming(setup, 1)
    await until(lambda: len(setup.inner.bodies) == 1)
    setup.lifecycle.stop()
    setup.lifecycle.stop()
    await asyncio.wait_for(wait_for_the_end(setup.lifecycle, setup.in_flight, 3600, 0), 120)
    assert (await tasks[0]).status_code == 503


async def test_with_nothing_to_wait_for_the_end_comes_at_once() -> None:
    setup = Setup()
    setup.lifecycle.stop()
    await asyncio.wait_for(wait_for_the_end(setup.lifecycle, setup.in_flight, 3600, 3600), 120)


@pytest.mark.parametrize("prompt", ["1 a", ["1 a", "2 b"]])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages"])
async def test_a_stream_that_is_ended_says_so_in_an_event(path: str, prompt: Any) -> None:
    if path == "/v1/messages" and isinstance(prompt, list):
        return  # no prompt lists there
    setup = Setup()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        sent = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": sent})
        await send({"type": "http.response.body", "body": b'data: {"choices": []}\n\n', "more_body": True})
        setup.inner.bodies.append({})
        assert (await receive())["type"] == "http.disconnect"

    setup.dispatch._inner = endless
    body = {"prompt": prompt, "messages": [{"role": "user", "content": "1"}], "stream": True}
    task = asyncio.create_task(setup.post(path, body))
    await until(lambda: len(setup.inner.bodies) == (1 if isinstance(prompt, str) else 2))
    for _ in range(100):
        await asyncio.sleep(0)  # the first event goes out
    setup.lifecycle.engine_died()
    await asyncio.wait_for(wait_for_the_end(setup.lifecycle, setup.in_flight, 3600, 0), 120)
    answer = await asyncio.wait_for(task, 120)
    assert answer.status_code == 200
    events = [event for event in answer.text.split("\n\n") if event]
    if path == "/v1/messages":
        name, data = events[-1].split("\n")
        assert name == "event: error"
    else:
        *_, data, last = events
        assert last == "data: [DONE]"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["message"]) == (503, "The engine died before this answer was complete")
