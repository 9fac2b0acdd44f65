"""What one request may ask for: checked before it is routed, and long before the engine sees it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import Counter

from service.errors import BadRequestError
from service.request.endpoints import Endpoint

_ANSWER_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
_TEXT_FIELDS = ("messages", "input", "system", "instructions")


class Tokenizer(Protocol):
    """The base model's tokenizer, as far as it is needed here."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Return token ids."""

    def get_vocab(self) -> dict[str, int]:
        """Return every token."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one request."""

    prompt_tokens: int
    answer_tokens: int
    choices: int
    """Prompts times `n`."""


class RequestLimits:
    """Refuses a request that asks for too much, naming the field and the limit.

    A prompt is counted as the text that the client sent; what the template adds is left to the engine's
    own check. No token is shorter than a byte, so only a prompt of more bytes than the limit is tokenised
    here, beside the event loop; and one that is longer than that many of the longest tokens isn't either.
    """

    def __init__(self, limits: Limits, tokenizer: Tokenizer, rejected: Counter) -> None:
        """`rejected` counts by reason."""
        self._limits = limits
        self._tokenizer = copy.deepcopy(tokenizer)  # the engine's own must not be used by two threads at once
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._rejected = rejected

    async def check(self, endpoint: Endpoint, body: Mapping[str, Any]) -> None:
        """Pass if the request stays within the limits; what is no number at all is left to the engine.

        Raises:
            BadRequestError: it does not.

        """
        for name in _ANSWER_FIELDS:
            if _number(body.get(name)) > self._limits.answer_tokens:
                self._refuse("max_tokens", name, f"{body[name]} tokens", self._limits.answer_tokens)
        prompts = self._prompts(endpoint, body)
        if _number(body.get("n")) > self._limits.choices:
            self._refuse("n", "n", f"{body['n']} answers", self._limits.choices)
        self.check_count(len(prompts) * max(1, _number(body.get("n"))), "prompt", "answers (prompts times n)")
        for param, parts in prompts:
            if not await self._fits(parts):
                self._refuse(
                    "prompt_tokens", param, "more tokens than a prompt may have", self._limits.prompt_tokens
                )

    def check_count(self, count: float, param: str, what: str) -> None:
        """Pass if a list is no longer than a request may have answers. Raises BadRequestError otherwise."""
        if count > self._limits.choices:
            self._refuse("n", param, f"{count} {what}", self._limits.choices)

    def _refuse(self, reason: str, param: str, asked: str, limit: int) -> None:
        self._rejected.labels(reason).inc()
        raise BadRequestError(f"{param}: {asked}; the limit is {limit}", param)

    def _prompts(self, endpoint: Endpoint, body: Mapping[str, Any]) -> list[tuple[str, list[str | int]]]:
        """Return each prompt's texts and token ids, with the field they stand in."""
        if endpoint.reads in ("prompt", "prompt_or_messages") and "messages" not in body:
            prompt = body.get("prompt")
            several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
            return [("prompt", list(_leaves(one))) for one in (prompt if several else [prompt])]  # type: ignore[union-attr]
        if endpoint.reads == "tokens":
            return [("tokens", list(_leaves(body.get("tokens"))))]
        present = [name for name in _TEXT_FIELDS if name in body]
        return [(present[0] if present else endpoint.reads, list(_leaves([body[name] for name in present])))]

    async def _fits(self, parts: list[str | int]) -> bool:
        limit = self._limits.prompt_tokens
        texts = [part for part in parts if isinstance(part, str)]
        ids = len(parts) - len(texts)
        if ids + sum(len(text.encode("utf-8", "replace")) for text in texts) <= limit:
            return True
        if ids + sum(len(text) for text in texts) / self._longest_token > limit:
            return False
        return ids + await asyncio.to_thread(self._count, texts) <= limit

    def _count(self, texts: list[str]) -> int:
        return sum(
            len(self._tokenizer.encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False))
            for text in texts
        )


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0


def _leaves(value: object) -> Iterable[str | int]:
    """Yield the texts and numbers in a JSON value, but not the keys."""
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str | int):
            yield one
        elif isinstance(one, dict):
            stack += one.values()
        elif isinstance(one, list):
            stack += one
