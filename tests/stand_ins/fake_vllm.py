"""A stand-in for vLLM's app: it answers completions with what it was asked, by whom it was asked to."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from starlette.types import Receive, Scope, Send


class FakeVllm:
    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.scopes: list[Scope] = []
        self.disconnects = 0
        self.fail_for: str | None = None
        self.hang_for: str | None = None
        self.crash_with: Exception | None = None
        self.break_for: str | None = None
        self.break_with = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        asked = json.loads(body)
        self.bodies.append(asked)
        self.scopes.append(scope)
        if self.crash_with is not None:
            raise self.crash_with
        if self.hang_for is not None and asked["model"].startswith(self.hang_for):
            assert (await receive())["type"] == "http.disconnect"
            self.disconnects += 1
            return await self.answer(send, 200, b"null")
        if self.fail_for is not None and asked["model"].startswith(self.fail_for):
            error = {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}
            return await self.answer(send, 400, json.dumps({"error": error}).encode())
        n = asked.get("n") or 1
        prompts = asked["prompt"] if isinstance(asked.get("prompt"), list) else [asked.get("prompt")]
        usage = SimpleNamespace(prompt_tokens=10 * len(prompts), completion_tokens=n * len(prompts))
        scope.setdefault("state", {})["request_metadata"] = SimpleNamespace(final_usage_info=usage)
        if asked.get("stream"):
            return await self.stream(asked, send)
        answer = {
            "id": "cmpl-inner",
            "object": "text_completion",
            "model": asked["model"],
            "choices": [
                {"index": i * n + copy, "text": f"{asked['model']}|{prompt}|{copy}"}
                for i, prompt in enumerate(prompts)
                for copy in range(n)
            ],
            "usage": {
                "prompt_tokens": 10 * len(prompts),
                "completion_tokens": n * len(prompts),
                "prompt_tokens_details": {"cached_tokens": len(prompts)},
                "completion_tokens_details": None,
            },
        }
        return await self.answer(send, 200, json.dumps(answer).encode())

    async def answer(self, send: Send, status: int, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def stream(self, asked: dict[str, Any], send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        events = []
        for word in ("one", "two", "three"):
            for index in range(len(asked["prompt"])):
                events.append(
                    {"id": "i", "model": asked["model"], "choices": [{"index": index, "text": word}]}
                )
        usage = {"total_tokens": 3 * len(asked["prompt"])}
        events.append({"id": "i", "model": asked["model"], "choices": [], "usage": usage})
        data = b"".join(f"data: {json.dumps(event)}\n\n".encode() for event in events)
        if self.break_for is not None and asked["model"].startswith(self.break_for):
            if self.break_with == "raise":
                await send({"type": "http.response.body", "body": data[:200], "more_body": True})
                raise RuntimeError("secret detail")
            error = {"error": {"message": "died", "type": "InternalServerError", "param": None, "code": 507}}
            data = data[:200].rpartition(b"\n\n")[0] + b"\n\n"
            data += {
                "error": f"data: {json.dumps(error)}\n\ndata: [DONE]\n\n".encode(),
                "no json": b"data: {secret\n\ndata: [DONE]\n\n",
                "nothing": b"",
            }[self.break_with]
        else:
            data += b"data: [DONE]\n\n"
        for start in range(0, len(data), 37):  # cut anywhere: a server may
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": data[start : start + 37], "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
