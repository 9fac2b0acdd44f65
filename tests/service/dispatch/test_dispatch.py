"""The way into the engine, without an engine."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Message

from service import headers
from tests.stand_ins.dispatch_setup import JSON, Setup


async def test_the_body_is_changed_in_nothing_but_the_model() -> None:
    setup = Setup()
    body = {"model": "auto", "prompt": "1 ä\U0001f600", "x": [1, 2.5, None, {"y": 2**64 - 1}], "n": 2}
    await setup.post("/v1/completions", body)
    assert setup.inner.bodies == [body | {"model": setup.names.experts[1].engine_name}]
    sent_headers = dict(setup.inner.scopes[0]["headers"])
    played = json.dumps(setup.inner.bodies[0]).encode()
    assert int(sent_headers[b"content-length"]) == len(played)


async def test_a_body_in_pieces_is_put_together() -> None:
    setup = Setup()
    raw = json.dumps({"prompt": "2 hello"}).encode()
    pieces = [
        {"type": "http.request", "body": raw[:5], "more_body": True},
        {"type": "http.request", "body": raw[5:], "more_body": False},
    ]
    sent: list[Message] = []

    async def receive() -> Message:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": JSON}
    await setup.app(scope, receive, send)
    assert setup.inner.bodies[0]["model"] == setup.names.experts[2].engine_name
    assert sent[0]["status"] == 200


async def test_a_client_that_leaves_before_its_body_is_complete_reaches_nobody() -> None:
    setup = Setup()

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError("nobody is there to send to")

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": JSON}
    await setup.app(scope, receive, send)
    assert setup.inner.bodies == []


async def test_a_client_that_leaves_is_seen_by_the_engine() -> None:
    setup = Setup()
    setup.inner.hang_for = "expert-1"
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"prompt": "1 hello"}', "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None: ...

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": JSON}
    await asyncio.wait_for(setup.app(scope, receive, send), 120)
    assert setup.inner.disconnects == 1
    labels = {"expert": "expert-1", "endpoint": "/v1/completions", "reason": "routed", "code": "499"}
    assert setup.count("requests_total", **labels) == 1
    assert setup.count("in_flight") == 0


async def test_a_client_that_leaves_stops_every_part_of_a_split_request() -> None:
    setup = Setup()
    setup.inner.hang_for = "expert"
    messages: list[Message] = [
        {"type": "http.request", "body": b'{"prompt": ["1 a", "2 b", "0 c"]}', "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        raise AssertionError("nobody is there to send to")

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": JSON}
    await asyncio.wait_for(setup.app(scope, receive, send), 120)
    assert setup.inner.disconnects == 3


@pytest.mark.parametrize("model", ["", "fallback", "expert-3", "/etc/passwd", "expert-0@", "AUTO"])
async def test_no_other_name_reaches_the_engine(model: str) -> None:
    setup = Setup()
    answer = await setup.post("/v1/completions", {"model": model, "prompt": "0 hello"})
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"
    assert setup.inner.bodies == []
    labels = {"expert": "none", "endpoint": "/v1/completions", "reason": "none", "code": "404"}
    assert setup.count("requests_total", **labels) == 1


async def test_headers_that_would_steer_the_engine_stay_outside() -> None:
    setup = Setup()
    steering = {"x-data-parallel-rank": "7", "x-vllm-priority": "-100", "x-mine": "stays"}
    await setup.post("/v1/completions", {"prompt": "1 a"}, headers=steering)
    (scope,) = setup.inner.scopes
    assert {name.decode() for name, _ in scope["headers"]} & steering.keys() == {"x-mine"}


async def test_an_engine_that_crashes_gives_an_error_that_tells_nothing() -> None:
    setup = Setup()
    setup.inner.crash_with = RuntimeError("secret detail of /srv/secret")
    for prompt in ("1 a", ["1 a", "2 b"]):
        answer = await setup.post("/v1/completions", {"prompt": prompt})
        assert answer.status_code == 500
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "secret" not in answer.text
        assert answer.headers[headers.REASON].startswith("routed")
    labels = {"expert": "expert-2", "endpoint": "/v1/completions", "reason": "routed", "code": "500"}
    assert setup.count("requests_total", **labels) == 1


@pytest.mark.parametrize("prompt", ["1 a", ["1 a", "2 b"]])
async def test_a_500_of_a_dead_engine_is_a_503(prompt: object) -> None:
    setup = Setup()

    async def dying(scope: Any, receive: Any, send: Any) -> None:
        setup.dead = True
        await setup.inner.answer(send, 500, b'{"error": {"message": "EngineCore", "code": 500}}')

    setup.dispatch._inner = dying
    answer = await setup.post("/v1/completions", {"prompt": prompt})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == 503
    assert answer.json()["error"]["message"].startswith("The engine died")
    assert answer.headers["retry-after"]
    assert int(answer.headers["content-length"]) == len(answer.content)
    labels = {"expert": "expert-1", "endpoint": "/v1/completions", "reason": "routed", "code": "503"}
    assert setup.count("requests_total", **labels) == 1


async def test_an_error_of_the_engine_leaves_with_every_key() -> None:
    setup = Setup()

    async def anthropic(scope: Any, receive: Any, send: Any) -> None:
        body = json.dumps({"type": "error", "error": {"type": "NotFoundError", "message": "gone"}}).encode()
        sent_headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 404, "headers": sent_headers})
        await send({"type": "http.response.body", "body": body[:9], "more_body": True})
        await send({"type": "http.response.body", "body": body[9:]})

    setup.dispatch._inner = anthropic
    asked = {"messages": [{"role": "user", "content": "1 hello"}]}
    answer = await setup.post("/v1/messages", asked)
    assert answer.json()["error"] == {
        "message": "gone",
        "type": "NotFoundError",
        "param": None,
        "code": 404,
    }
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.headers[headers.EXPERT] == "expert-1"


async def test_a_websocket_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    await Setup().app({"type": "websocket", "path": "/v1/realtime"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
