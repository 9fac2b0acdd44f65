"""The whole application over a stand-in for the engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx

from service.app import build_app
from service.layers.auth import Access, Keys
from service.settings import Settings
from tests.stand_ins.dispatch_setup import Setup


def app_of(setup: Setup, clients: list[str], **given: Any) -> Any:
    service = SimpleNamespace(bundle=SimpleNamespace(digest="0" * 12), lifecycle=setup.lifecycle)
    settings = Settings.model_validate({"bundle": "b"} | given)
    access = Access(Keys(clients), Keys([]))
    return build_app(service, setup.dispatch, access, setup.metrics, settings, None)  # type: ignore[arg-type]


async def request(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        return await client.request(method, path, **more)
