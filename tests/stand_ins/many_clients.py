"""Many clients at once, each of which says how its answer ended."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

_LAST_WORDS = ("data: [DONE]", "event: message_stop", "event: response.completed", "event: error")
GENERATED = "vllm:generation_tokens_total"


@dataclass
class Heard:
    """What one client heard."""

    status: int = 0
    headers: httpx.Headers = field(default_factory=httpx.Headers)
    events: list[Any] = field(default_factory=list)
    body: Any = None
    done: bool = False
    """A stream's last word came: it was not cut off."""
    seconds: float = 0.0

    @property
    def errors(self) -> list[dict[str, Any]]:
        found = [self.body] if self.body is not None else self.events
        return [one["error"] for one in found if isinstance(one, dict) and isinstance(one.get("error"), dict)]


def open_client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)  # who leaves takes nobody along
    return httpx.AsyncClient(base_url=url, timeout=300, limits=limits)


async def ask(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], first_event: asyncio.Event | None = None
) -> Heard:
    heard = Heard()
    start = time.perf_counter()
    async with client.stream("POST", path, json=body) as answer:
        heard.status, heard.headers = answer.status_code, answer.headers
        if not answer.headers["content-type"].startswith("text/event-stream"):
            heard.body = json.loads(await answer.aread())
        else:
            async for line in answer.aiter_lines():
                if line in _LAST_WORDS:
                    heard.done = True
                elif line.startswith("data: {"):
                    heard.events.append(json.loads(line.removeprefix("data: ")))
                    if first_event is not None:
                        first_event.set()
    heard.seconds = time.perf_counter() - start
    return heard


async def sample(client: httpx.AsyncClient, name: str) -> float:
    """The sum of a metric over its labels."""
    families = text_string_to_metric_families((await client.get("/metrics")).text)
    return sum(s.value for family in families for s in family.samples if s.name == name)


async def wait_for_sample(client: httpx.AsyncClient, name: str, value: float, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while await sample(client, name) != value:
        assert time.monotonic() < deadline, f"{name} did not become {value}"
        await asyncio.sleep(0.05)
