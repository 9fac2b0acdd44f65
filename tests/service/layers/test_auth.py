from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from service.errors import UsageError
from service.layers.auth import OPEN_PATHS, Access, Authentication, Keys, read_access
from service.settings import Settings


class Inner:
    """An app that counts who reached it; it would read a body."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.reached += 1
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Guarded:
    def __init__(self, clients: list[str], admins: list[str] | None = None) -> None:
        self.inner = Inner()
        self.refused = 0
        self.app = Authentication(self.inner, Access(Keys(clients), Keys(admins or [])), self.count)

    def count(self) -> None:
        self.refused += 1

    async def get(self, path: str, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://t") as client:
            return await client.get(path, headers=named)


async def test_a_key_is_accepted_as_openai_and_as_anthropic_send_it() -> None:
    guarded = Guarded(["first", "second"])
    for headers in (
        {"authorization": "Bearer first"},
        {"authorization": "bearer  second"},
        {"x_api_key": "second"},
        {"authorization": "Basic other", "x_api_key": "first"},
    ):
        assert (await guarded.get("/v1/models", **headers)).status_code == 200
    assert guarded.refused == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer firs"},
        {"authorization": "Bearer first2"},
        {"authorization": "Bearer FIRST"},
        {"authorization": "first"},
        {"authorization": "Basic first"},
        {"x_api_key": ""},
        {"x_api_key": "admin"},
    ],
)
async def test_without_a_key_nothing_is_reached_but_health(headers: dict[str, str]) -> None:
    guarded = Guarded(["first"], ["admin"])
    for path in (
        "/v1/chat/completions",
        "/metrics",
        "/playground",
        "/v1/models",
        "/nowhere",
        "/healthy",
        "/health/",
    ):
        answer = await guarded.get(path, **headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.json()["error"]["code"] == 401
        assert "first" not in answer.text
    assert (guarded.inner.reached, guarded.refused) == (0, 7)
    for path in OPEN_PATHS:
        assert (await guarded.get(path, **headers)).status_code == 200


async def test_a_body_is_not_read_before_the_key() -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await Guarded(["first"]).app(scope, receive, send)
    assert sent[0]["status"] == 401


async def test_no_keys_no_check_but_never_for_the_administrator() -> None:
    guarded = Guarded([])
    assert (await guarded.get("/v1/models")).status_code == 200
    assert (await guarded.get("/admin/reload", x_api_key="")).status_code == 404
    guarded = Guarded(["first"], ["admin"])
    assert (await guarded.get("/admin/reload", authorization="Bearer first")).status_code == 401
    assert (await guarded.get("/admin/reload", authorization="Bearer admin")).status_code == 200
    assert (await guarded.get("/v1/models", authorization="Bearer admin")).status_code == 401


def test_keys_come_from_the_settings_and_from_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("\n  one \r\ntwo\n\n")
    settings = Settings.model_validate({"bundle": "b", "api_key": "three four", "api_key_file": str(file)})
    access = read_access(settings)
    for key, known in [("one", True), ("two", True), ("three", True), ("four", True), ("  one ", False)]:
        headers = httpx.Headers({"x-api-key": key})
        assert access.clients.accept(headers) == known  # type: ignore[arg-type]
    assert not access.admins
    assert "three" not in repr(settings) + repr(access) + str(vars(access.clients))


@pytest.mark.parametrize("text", [None, "", "\n \n", "ключ"])
def test_a_file_without_a_key_opens_nothing(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text.encode("utf-16" if text == "ключ" else "utf-8"))
    settings = Settings.model_validate({"bundle": "b", "admin_key_file": str(file)})
    with pytest.raises(UsageError, match="admin_key_file"):
        read_access(settings)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
async def test_a_key_with_other_letters_is_accepted_however_a_client_spells_it(encoding: str) -> None:
    guarded = Guarded(["schlüssel"])
    sent = "schlüssel".encode(encoding).decode("latin-1")
    for key, accepted in ((sent, True), (sent[:-1], False)):
        scope = {
            "type": "http",
            "path": "/v1/models",
            "headers": [(b"x-api-key", key.encode("latin-1"))],
        }
        before = guarded.inner.reached

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            pass

        await guarded.app(scope, receive, send)
        assert (guarded.inner.reached > before) is accepted
