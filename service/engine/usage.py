"""How many tokens an answer cost, as the engine counted them.

vLLM leaves the usage of completions, chat and messages in the state of the request, for streams too, whether
or not the client asked for `include_usage`: nothing has to be added to a request or taken out of an answer.
Only `/v1/responses` does not get it there, but always carries it in its answer or last event. An answer that
was not finished (the client left, the engine failed) has no usage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from starlette.types import Message, Scope, Send


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt and of what was generated for it."""

    prompt: int
    completion: int

    @staticmethod
    def sum(usages: Iterable[Usage]) -> Usage:
        """Add them up."""
        listed = list(usages)
        return Usage(sum(usage.prompt for usage in listed), sum(usage.completion for usage in listed))


class UsageReader:
    """Reads the usage of one request to the engine."""

    def __init__(self, scope: Scope) -> None:
        """`scope` is the one the engine gets; its state becomes this request's alone."""
        self._state = scope["state"] = dict(scope.get("state") or {})
        self._reads_answer = scope["path"] == "/v1/responses"
        self._last = b""

    def watching(self, send: Send) -> Send:
        """Return the channel the engine answers into."""
        if not self._reads_answer:
            return send

        async def watched(message: Message) -> None:
            if b'"usage"' in message.get("body", b""):  # inside a text the quotes would be escaped
                self._last = message["body"]
            await send(message)

        return watched

    def total(self) -> Usage | None:
        """Return the usage, None if the engine reported none."""
        if self._reads_answer:
            return _of_response(self._last)
        reported = getattr(self._state.get("request_metadata"), "final_usage_info", None)
        if reported is None:
            return None
        return Usage(reported.prompt_tokens or 0, reported.completion_tokens or 0)


def _of_response(body: bytes) -> Usage | None:
    """Read it from the JSON of a response, or from the event that closes a stream of one."""
    events = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: ")]
    try:
        found: Any = json.loads(events[-1])["response"] if events else json.loads(body)
        return Usage(int(found["usage"]["input_tokens"]), int(found["usage"]["output_tokens"]))
    except (KeyError, TypeError, ValueError):
        return None
