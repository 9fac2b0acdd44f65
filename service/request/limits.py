"""What one request may ask for: checked before it is routed, and long before the engine sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import Counter

from service.errors import BadRequestError, ContextLengthError
from service.request.endpoints import Endpoint

_ANSWER_FIELDS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class Tokenizer(Protocol):
    """The base model's tokenizer, as far as it is needed here."""

    def get_vocab(self) -> dict[str, int]:
        """Return every token."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one request."""

    context_tokens: int
    """Of prompt and answer together."""
    prompt_tokens: int
    answer_tokens: int
    choices: int
    """Prompts times `n`."""


class RequestLimits:
    """Refuses a request that asks for too much, naming the field and the limit.

    It looks at fields as the engine is going to read them. Of a prompt only what the engine is sure to count is
    counted, and only so far that it is sure to be too much: token ids, and texts that are longer than so many of
    the longest tokens. The exact count, with what the template makes of a conversation, is the engine's own.
    """

    def __init__(self, limits: Limits, tokenizer: Tokenizer, rejected: Counter) -> None:
        """`rejected` counts by reason."""
        self._limits = limits
        self._longest_token = max(map(len, tokenizer.get_vocab()))
        self._rejected = rejected

    def check(self, endpoint: Endpoint, body: Mapping[str, Any]) -> None:
        """Pass if the request stays within the limits; what is no number at all is left to the engine.

        Raises:
            BadRequestError: it does not.

        """
        if not endpoint.generates:
            return
        for name in _ANSWER_FIELDS:
            if _number(body.get(name)) > self._limits.answer_tokens:
                self._refuse("max_tokens", name, f"{body[name]} tokens", self._limits.answer_tokens)
        if _number(body.get("n")) > self._limits.choices:
            self._refuse("n", "n", f"{body['n']} answers", self._limits.choices)
        prompts = list(_prompts(endpoint, body))
        answers = len(prompts) * max(1, _number(body.get("n")))
        self.check_count(answers, "prompt", "answers (prompts times n)")
        if body.get("truncate_prompt_tokens") is None and body.get("truncation") != "auto":
            for prompt in prompts:
                self._check_length(endpoint.reads, prompt)

    def check_count(self, count: float, param: str, what: str) -> None:
        """Pass if a list is no longer than a request may have answers. Raises BadRequestError otherwise."""
        if count > self._limits.choices:
            self._refuse("n", param, f"{count:g} {what}", self._limits.choices)

    def _refuse(self, reason: str, param: str, asked: str, limit: int) -> None:
        self._rejected.labels(reason).inc()
        raise BadRequestError(f"{param}: {asked}; the limit is {limit}", param)

    def _check_length(self, param: str, prompt: str | list[int]) -> None:
        limit = self._limits.prompt_tokens
        least = -(-len(prompt) // self._longest_token) if isinstance(prompt, str) else len(prompt)
        if least > limit:
            self._rejected.labels("prompt_tokens").inc()
            tokens = f"at least {least}" if isinstance(prompt, str) else str(least)
            raise ContextLengthError(
                ContextLengthError.sentence(tokens, limit, self._limits.context_tokens), param
            )


def _prompts(endpoint: Endpoint, body: Mapping[str, Any]) -> Iterable[str | list[int]]:
    """Yield each prompt as far as the engine is sure to count it: of a conversation its last user turn."""
    if endpoint.reads == "prompt":
        prompt = body.get("prompt")
        several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
        for one in prompt if several else [prompt]:  # type: ignore[union-attr]
            yield one if isinstance(one, str | list) else ""
        return
    said = body.get("input") if endpoint.reads == "input" else body.get("messages")
    if isinstance(said, list):
        turns = [turn for turn in said if isinstance(turn, dict) and turn.get("role") == "user"]
        said = turns[-1].get("content") if turns else ""
    if isinstance(said, list):
        texts = (part.get("text") for part in said if isinstance(part, dict))
        said = "".join(text for text in texts if isinstance(text, str))
    yield said.strip() if isinstance(said, str) else ""


def _number(value: object) -> float:
    return value if isinstance(value, int | float) else 0
