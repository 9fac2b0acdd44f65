"""Which texts of a request are routed, for each dispatched endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeGuard

from bundle.manifest import RoutedTextRule
from router.text import PromptReader, routed_text
from service.errors import BadRequestError
from service.request.endpoints import Endpoint


class Tokenizer(Protocol):
    """The base model's tokenizer, as far as it is needed here."""

    def decode(self, token_ids: Any) -> str:
        """Return the text of token ids, special tokens included."""


class RequestTexts:
    """Reads requests as training read rows, so that the router sees what it was trained on."""

    def __init__(self, rule: RoutedTextRule, prompts: PromptReader, tokenizer: Tokenizer) -> None:
        """`rule` is the manifest's."""
        self._rule = rule
        self._prompts = prompts
        self._tokenizer = tokenizer

    def of(self, endpoint: Endpoint, body: Mapping[str, Any]) -> list[str]:
        """Return the texts to route: one, or one per prompt of a list.

        Raises:
            BadRequestError: the field is missing or no text can be read from it.

        """
        match endpoint.reads:
            case "prompt":
                return self._of_prompt(body.get("prompt"))
            case "prompt_or_messages" if "messages" not in body:
                return [self._of_one(body.get("prompt"), "prompt")]
            case "tokens":
                return [self._of_one(body.get("tokens"), "tokens")]
            case "input":
                return [self._of_input(body.get("input"))]
        return [self.of_messages(body.get("messages"), "messages")]

    def of_prompts(self, prompts: Sequence[str]) -> list[str]:
        """Return what is routed of raw prompts: of a templated one its user turn."""
        return [self._prompts.user_turn(prompt, self._rule) for prompt in prompts]

    def of_messages(self, messages: object, param: str) -> str:
        """Return what is routed of a conversation.

        Raises:
            BadRequestError: it is not a list of objects.

        """
        if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
            raise BadRequestError(f"{param}: give a list of messages, each with role and content", param)
        return routed_text(messages, self._rule)

    def _of_prompt(self, prompt: object) -> list[str]:
        if not _is_list_of_prompts(prompt):
            return [self._of_one(prompt, "prompt")]
        if len({type(one) for one in prompt}) > 1:  # the engine would take it or not as it is split
            raise BadRequestError("prompt: give a list of texts or a list of token id lists", "prompt")
        return [self._of_one(one, "prompt") for one in prompt]

    def _of_one(self, prompt: object, param: str) -> str:
        if isinstance(prompt, str) and param != "tokens":
            return self._prompts.user_turn(prompt, self._rule)
        if isinstance(prompt, list) and prompt and all(isinstance(token, int) for token in prompt):
            try:
                return self._prompts.user_turn(self._tokenizer.decode(prompt), self._rule)
            except (OverflowError, ValueError, TypeError) as error:
                raise BadRequestError(f"{param}: these are no token ids of the model", param) from error
        expected = "a list of token ids" if param == "tokens" else "a text, token ids, or a list of either"
        raise BadRequestError(f"{param}: give {expected}, not empty", param)

    def _of_input(self, given: object) -> str:
        if isinstance(given, str):
            return routed_text([{"role": "user", "content": given}], self._rule)
        return self.of_messages(given, "input")


def prompt_count(endpoint: Endpoint, body: Mapping[str, Any]) -> int:
    """Return how many prompts a request has, at least 1."""
    prompt = body.get("prompt")
    return len(prompt) if endpoint.reads == "prompt" and _is_list_of_prompts(prompt) else 1


def _is_list_of_prompts(prompt: Any) -> TypeGuard[list[Any]]:
    return isinstance(prompt, list) and bool(prompt) and not isinstance(prompt[0], int)
