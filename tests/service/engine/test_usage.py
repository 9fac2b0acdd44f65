from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from service.engine.usage import Usage, UsageReader

TEXT = 'a text with "usage" and\ndata: {"x": 1} in it'
RESPONSE = {"output": [{"text": TEXT}], "usage": {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}}


async def read(chunks: list[bytes], path: str = "/v1/responses") -> tuple[Usage | None, list[bytes]]:
    reader = UsageReader({"type": "http", "path": path})
    passed: list[bytes] = []

    async def send(message: Message) -> None:
        passed.append(message.get("body", b""))

    watched = reader.watching(send)
    await watched({"type": "http.response.start", "status": 200})
    for chunk in chunks:
        await watched({"type": "http.response.body", "body": chunk, "more_body": True})
    return reader.total(), passed[1:]


async def test_a_response_carries_its_usage() -> None:
    body = json.dumps(RESPONSE).encode()
    assert await read([body]) == (Usage(5, 3), [body])


async def test_a_stream_of_a_response_ends_with_its_usage() -> None:
    def event(kind: str, data: dict[str, Any]) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind} | data)}\n\n".encode()

    chunks = [
        event("response.created", {"response": {"usage": None}}),
        event("response.output_text.delta", {"delta": TEXT}),
        event("response.completed", {"response": RESPONSE}),
    ]
    assert await read(chunks) == (Usage(5, 3), chunks)
    assert (await read(chunks[:2]))[0] is None


@pytest.mark.parametrize("body", [b"", b"{", b'{"usage": 3}', b'{"usage": {"input_tokens": "x"}}', b"[]"])
async def test_an_answer_without_a_usage_is_no_error(body: bytes) -> None:
    assert (await read([body]))[0] is None


def test_two_parts_of_one_request_do_not_share_what_the_engine_reports() -> None:
    outer: dict[str, Any] = {"type": "http", "path": "/v1/completions", "state": {"kept": 1}}
    scopes = [dict(outer), dict(outer)]
    readers = [UsageReader(scope) for scope in scopes]
    usage = SimpleNamespace(prompt_tokens=2, completion_tokens=None)
    scopes[0]["state"]["request_metadata"] = SimpleNamespace(final_usage_info=usage)
    scopes[1]["state"]["request_metadata"] = SimpleNamespace(final_usage_info=None)
    assert [reader.total() for reader in readers] == [Usage(2, 0), None]
    assert scopes[0]["state"]["kept"] == 1
    assert outer["state"] == {"kept": 1}
