"""The way into the engine with a stand-in behind it: what tests of dispatch, limits, metrics and logs set up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from prometheus_client import CollectorRegistry

from bundle.manifest import Manifest
from router.policy import Policy
from router.text import PromptReader
from router.threaded import Routed
from service.dispatch.dispatch import Dispatch
from service.engine.request_models import RequestModels
from service.layers.observation import Observation
from service.lifecycle.in_flight import InFlight
from service.lifecycle.lifecycle import Lifecycle
from service.request.decision import Decider
from service.request.limits import Limits, RequestLimits
from service.request.names import ModelNames
from service.request.routed_text import RequestTexts
from service.telemetry.metrics import Metrics
from tests.stand_ins.fake_vllm import FakeVllm

LIMITS = Limits(context_tokens=80, prompt_tokens=64, answer_tokens=100, choices=16)
EXPERTS = ("expert-0", "expert-1", "expert-2")
JSON = [(b"content-type", b"application/json")]


def small_manifest(
    threshold: float | None = None,
    helps_from: Sequence[float | None] | None = None,
    unfamiliar: str | None = None,
) -> Manifest:
    """With `helps_from`, for each expert, a gate: an expert of None is not in the bundle.

    `unfamiliar`, fallback or base, answers what is unlike training.
    """
    expert = {"rows": 1, "share": 0.3}
    gate = None if helps_from is None else small_gate(helps_from)
    told = {"by": "encoding", "threshold": 9, "quantile": 0.98, "caught": 0.02, "rows": 100}
    return Manifest.model_validate(
        {
            "created": "2026-01-01T00:00:00+00:00",
            "base": {"id": "tiny", "name": "tiny", "dtype": "float32", "weights_sha256": "0" * 64},
            "lora": {"rank": 8, "alpha": 16, "target_modules": ["q_proj"]},
            "label_order": EXPERTS,
            "experts": [
                expert | {"name": name, "folder": f"experts/{name}", "digest": f"{k}" * 64}
                for k, name in enumerate(EXPERTS)
                if helps_from is None or helps_from[k] is not None
            ],
            "gate": gate,
            "fallback": {"kind": "warmup", "digest": "f" * 64},
            "router": {
                "kind": "semantic",
                "encoder": "e",
                "encoder_sha256": "0" * 64,
                "hidden": 4,
                "unfamiliar": unfamiliar and told | {"answers": unfamiliar},
            },
            "routed_text": {"max_tokens": 64},
            "calibration": {"temperature": 1, "held_out_rows": 0, "agreement": 1, "threshold": threshold},
            "recipe": {},
            "versions": {},
            "files": {},
        }
    )


def small_gate(helps_from: Sequence[float | None]) -> dict[str, Any]:
    gain = {"mean": -0.2, "low": -0.3, "high": -0.1}
    return {
        "labels": [
            {"rows": 1, "share": 0.3, "threshold": least, "measured_rows": 9, "gain": gain if least else None}
            for least in helps_from
        ],
        "measured_rows": 27,
        "served": gain,
    }


class WordRouter:
    """Texts that begin with a digit go to the expert of that number, with probability 0.8; on "?!" end strange ones."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.seen: list[str] = []

    def at_once(self, text: str) -> Routed | None:
        return None

    async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
        if self.error is not None:
            raise self.error
        self.seen += texts
        rows = np.full((len(texts), 3), 0.1, dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[int(text[0])] = 0.8
        unfamiliar = np.array([text.endswith("?!") for text in texts])
        return Routed(rows, 0.004, unfamiliar)


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
        helps_from: Sequence[float | None] | None = None,
        unfamiliar: str | None = None,
    ) -> None:
        manifest = small_manifest(threshold, helps_from, unfamiliar)
        self.inner = FakeVllm()
        self.router = router or WordRouter()
        self.registry = CollectorRegistry()
        template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[end]{% endfor %}"
        texts = RequestTexts("last_user", PromptReader(template, "", ""), Letters())
        decider = Decider(ModelNames(manifest), self.router, Policy.of(manifest))
        self.names = decider.names
        self.metrics = Metrics(self.registry)
        self.metrics.serve_bundle(manifest)
        self.dead = False
        self.lifecycle = Lifecycle()
        self.lifecycle.serving()
        self.in_flight = InFlight(limit, self.lifecycle, self.metrics)
        limits = RequestLimits(limits, Letters(), self.metrics.rejected)
        self.dispatch = Dispatch(
            self.inner,
            decider,
            texts,
            self.metrics,
            self.in_flight,
            limits,
            self.is_dead,
            RequestModels(()),
            calls_known=True,
        )
        self.app = Observation(self.dispatch, self.metrics, tracer)

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
