"""Which of vLLM's routes clients reach: what neither stands here nor is a route of ours is 404, whatever vLLM adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.errors import MethodNotAllowedError, NotFoundError

Reads = Literal["prompt", "messages", "input", "prompt_or_messages", "tokens"]


@dataclass(frozen=True)
class Endpoint:
    """A route of vLLM that goes through dispatch."""

    path: str
    reads: Reads
    """The field of the body whose text is routed."""
    generates: bool = True
    """Whether the engine writes something; what only counts or spells tokens has no limits of its own."""


ENDPOINTS: dict[str, Endpoint] = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/completions", "prompt"),
        Endpoint("/v1/chat/completions", "messages"),
        Endpoint("/v1/responses", "input"),
        Endpoint("/v1/messages", "messages"),
        Endpoint("/v1/messages/count_tokens", "messages", generates=False),
        Endpoint("/tokenize", "prompt_or_messages", generates=False),
        Endpoint("/detokenize", "tokens", generates=False),
    )
}


PLAYGROUND = "/playground/"
"""What `/` itself loads lies here. Both are static and hold nothing secret, so they need no key."""


def endpoint_of(method: str, path: str) -> Endpoint:
    """Return the dispatched endpoint.

    Raises:
        NotFoundError: the path is not served.
        MethodNotAllowedError: it is, but only with POST.

    """
    endpoint = ENDPOINTS.get(path)
    if endpoint is None:
        raise NotFoundError(f"{method} {path} is not served here")
    if method != "POST":
        raise MethodNotAllowedError(f"{path} takes POST, not {method}", "POST")
    return endpoint
