"""The app as a whole, in front of stand-ins: what stands before what, and on which port."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service import headers
from service.app import Shortcut, build_metrics_app
from tests.stand_ins.app_setup import app_of, request
from tests.stand_ins.dispatch_setup import Setup


async def test_metrics_stand_on_the_main_port_or_on_their_own_but_never_on_both() -> None:
    main = app_of(Setup(), [])
    assert "python_info" in (await request(main, "GET", "/metrics")).text
    main = app_of(Setup(), [], metrics_port=9100)
    answer = await request(main, "GET", "/metrics")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == 404
    own = build_metrics_app()
    assert "python_info" in (await request(own, "GET", "/metrics")).text
    for path in ("/v1/models", "/health", "/"):
        assert (await request(own, "GET", path)).status_code == 404


async def test_the_key_comes_before_the_body_and_everything_is_counted() -> None:
    setup = Setup()
    app = app_of(setup, ["secret"], max_body_bytes=20)
    large = {"content": b"x" * 21}
    key = {"headers": {"authorization": "Bearer secret", "content-type": "application/json"}}
    for path in ("/v1/completions", "/metrics", "/nowhere"):
        answer = await request(app, "POST", path, **large)
        assert answer.status_code == 401
        assert answer.headers[headers.REQUEST_ID]
    refused = await request(app, "POST", "/v1/completions", **large, **key)
    assert refused.status_code == 400
    assert "20 bytes" in refused.json()["error"]["message"]
    accepted = await request(app, "POST", "/v1/completions", content=b'{"prompt": "1 a"}', **key)
    assert accepted.headers[headers.EXPERT] == "expert-1"
    assert (await request(app, "GET", "/health/ready")).status_code == 200
    assert setup.count("rejected_total", reason="unauthorized") == 3
    assert setup.count("rejected_total", reason="body_bytes") == 1


@pytest.fixture
def shortcut() -> httpx.AsyncClient:
    async def route(request: object) -> PlainTextResponse:
        return PlainTextResponse("a route")

    routes = Starlette(routes=[Route("/v1/models", route), Route("/v1/completions", route, methods=["POST"])])
    app = Shortcut(routes, PlainTextResponse("dispatch"))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")


@pytest.mark.parametrize(
    ("method", "path", "taken_by"),
    [
        ("POST", "/v1/completions", "dispatch"),  # a route with this path would not be asked
        ("GET", "/v1/completions", "dispatch"),  # which says 405 in the error shape
        ("GET", "/v1/models", "a route"),
        ("POST", "/v1/completions/more", "Not Found"),
    ],
)
async def test_requests_for_the_engine_skip_the_search_through_our_routes(
    shortcut: httpx.AsyncClient, method: str, path: str, taken_by: str
) -> None:
    assert (await shortcut.request(method, path)).text == taken_by


SITE = {"origin": "https://chat.example.com"}


async def test_no_page_of_another_site_may_ask_unless_it_is_named() -> None:
    closed = await request(app_of(Setup(), []), "GET", "/health/ready", headers=SITE)
    assert not any(name.startswith("access-control") for name in closed.headers)
    app = app_of(Setup(), ["secret"], cors_origins="https://chat.example.com")
    asked = SITE | {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    preflight = await request(app, "OPTIONS", "/v1/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == SITE["origin"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    refused = await request(app, "POST", "/v1/completions", headers=SITE)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == SITE["origin"]
    assert headers.EXPERT in refused.headers["access-control-expose-headers"]
    stranger = await request(app, "GET", "/health/ready", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


async def test_what_a_path_takes_is_said() -> None:
    app = app_of(Setup(), [])
    for method, path, allowed in (("POST", "/health/live", "GET, HEAD"), ("GET", "/v1/completions", "POST")):
        answer = await request(app, method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert path in answer.json()["error"]["message"]
    assert (await request(app, "HEAD", "/health/live")).content == b""
