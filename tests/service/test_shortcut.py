"""Requests for the engine skip the search through our routes; nothing else does."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.shortcut import Shortcut


@pytest.fixture
def client() -> httpx.AsyncClient:
    async def route(request: object) -> PlainTextResponse:
        return PlainTextResponse("a route")

    routes = Starlette(routes=[Route("/v1/models", route), Route("/v1/completions", route, methods=["POST"])])
    shortcut = Shortcut(routes, PlainTextResponse("dispatch"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(shortcut), base_url="http://service")


@pytest.mark.parametrize(
    ("method", "path", "taken_by"),
    [
        ("POST", "/v1/completions", "dispatch"),  # a route with this path would not be asked
        ("GET", "/v1/completions", "dispatch"),  # which says 405 in the error shape
        ("GET", "/v1/models", "a route"),
        ("POST", "/v1/completions/more", "Not Found"),
    ],
)
async def test_who_takes_a_request(client: httpx.AsyncClient, method: str, path: str, taken_by: str) -> None:
    assert (await client.request(method, path)).text == taken_by
