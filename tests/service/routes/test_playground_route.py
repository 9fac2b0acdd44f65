"""What serves the playground, without a browser and without an engine."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

import service.serve
from cli.main import app as command
from service import headers
from service.request.endpoints import PLAYGROUND
from service.settings import Settings
from tests.stand_ins.app_setup import app_of
from tests.stand_ins.dispatch_setup import Setup


async def ask(path: str, method: str = "GET", **options: Any) -> httpx.Response:
    app = app_of(Setup(), ["the page needs no key"], **options)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request(method, path)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        (f"{PLAYGROUND}page.js", "text/javascript; charset=utf-8"),
        (f"{PLAYGROUND}style.css", "text/css; charset=utf-8"),
        (f"{PLAYGROUND}icon.svg", "image/svg+xml"),
    ],
)
async def test_every_part_of_the_page_forbids_what_it_does_not_need(path: str, kind: str) -> None:
    for method in ("GET", "HEAD"):
        answer = await ask(path, method)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert set(policy.values()) == {"'none'", "'self'"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers[headers.BUNDLE] == "0" * 12


def is_refused(answer: httpx.Response) -> bool:
    return answer.status_code == 404 and set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_off_means_404_in_the_error_shape() -> None:
    for path in ("/", f"{PLAYGROUND}page.js"):
        assert is_refused(await ask(path, playground=False))


async def test_nothing_else_of_the_disk_is_served() -> None:
    for name in ("", "index.html", "nothing.js", "..%2Fsettings.py", "%2e%2e/settings.py", "..\\settings.py"):
        assert is_refused(await ask(PLAYGROUND + name)), name


@pytest.mark.parametrize(("given", "expected"), [([], True), (["--no-playground"], False)])
def test_the_flag(given: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def run(settings: Settings) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr(service.serve, "run", run)
    done = CliRunner().invoke(command, ["serve", "some/bundle", *given])
    assert done.exit_code == 0, done.output
    assert [settings.playground for settings in seen] == [expected]
