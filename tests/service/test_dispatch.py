"""The way into the engine, without an engine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest
from fake_vllm import FakeVllm
from prometheus_client import CollectorRegistry
from starlette.types import Message

from bundle.manifest import Manifest
from router.text import PromptReader
from router.threaded import Classified
from service import headers
from service.admission import Admission, Limits
from service.decision import Decider
from service.dispatch import Dispatch
from service.in_flight import InFlight
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.mistakes import RequestModels
from service.names import ModelNames
from service.observed import Observed
from service.request_text import RequestTexts

LIMITS = Limits(prompt_tokens=64, answer_tokens=100, choices=16)
EXPERTS = ("expert-0", "expert-1", "expert-2")
JSON = [(b"content-type", b"application/json")]


def small_manifest(threshold: float | None = None) -> Manifest:
    expert = {"rows": 1, "share": 0.3}
    return Manifest.model_validate(
        {
            "created": "2026-01-01T00:00:00+00:00",
            "base": {"id": "tiny", "name": "tiny", "dtype": "float32", "weights_sha256": "0" * 64},
            "lora": {"rank": 8, "alpha": 16, "target_modules": ["q_proj"]},
            "label_order": EXPERTS,
            "experts": [
                expert | {"name": name, "folder": f"experts/{name}", "digest": f"{k}" * 64}
                for k, name in enumerate(EXPERTS)
            ],
            "fallback": {"kind": "warmup", "digest": "f" * 64},
            "router": {"kind": "semantic", "encoder": "e", "encoder_sha256": "0" * 64, "hidden": 4},
            "routed_text": {"max_tokens": 64},
            "calibration": {"temperature": 1, "held_out_rows": 0, "agreement": 1, "threshold": threshold},
            "recipe": {},
            "versions": {},
            "files": {},
        }
    )


class WordRouter:
    """Texts that begin with a digit go to the expert of that number, with probability 0.8."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.seen: list[str] = []

    def at_once(self, text: str) -> Classified | None:
        return None

    async def classify(self, texts: Sequence[str], since: float | None = None) -> Classified:
        if self.error is not None:
            raise self.error
        self.seen += texts
        rows = np.full((len(texts), 3), 0.1, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[int(text[0])] = 0.8
        return Classified(rows, 0.004)


class Letters:
    """A tokenizer whose ids are code points."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(letter) for letter in text]

    def get_vocab(self) -> dict[str, int]:
        return {"a": 97}

    def decode(self, token_ids: Any) -> str:
        return "".join(chr(token) for token in token_ids)


class Setup:
    def __init__(
        self,
        router: Any = None,
        threshold: float | None = None,
        limit: int = 8,
        tracer: Any = None,
        limits: Limits = LIMITS,
    ) -> None:
        manifest = small_manifest(threshold)
        self.inner = FakeVllm()
        self.router = router or WordRouter()
        self.registry = CollectorRegistry()
        template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}"
        texts = RequestTexts("last_user", PromptReader(template, "", ""), Letters())
        decider = Decider(ModelNames(manifest), self.router, threshold)
        self.names = decider.names
        self.metrics = Metrics(self.registry)
        self.metrics.serve_bundle(manifest)
        self.dead = False
        self.lifecycle = Lifecycle()
        self.lifecycle.serving()
        self.in_flight = InFlight(limit, self.lifecycle, self.metrics)
        admission = Admission(limits, Letters(), self.metrics.rejected)
        self.dispatch = Dispatch(
            self.inner,
            decider,
            texts,
            self.metrics,
            self.in_flight,
            admission,
            self.is_dead,
            RequestModels(()),
        )
        self.app = Observed(self.dispatch, self.metrics, tracer)

    def is_dead(self) -> bool:
        return self.dead

    async def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json=body, **more)

    async def method(self, method: str, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path)

    def count(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"gradientspace_{name}", labels) or 0


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
    await asyncio.wait_for(setup.app(scope, receive, send), 5)
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
    await asyncio.wait_for(setup.app(scope, receive, send), 5)
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
