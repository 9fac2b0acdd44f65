"""`POST /v1/route`: who would answer, without anyone answering."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict

from service.errors import BadRequestError
from service.request.json_body import check_content_type, parse_object

router = APIRouter()


class OnePerTurn:
    """Whoever waits here goes on alone: at most one in a turn of the event loop, in the order they came.

    A token on its way to a client takes some twenty turns of the loop. Where each turn first answers everybody who
    asks for something cheap, that token waits for all of them twenty times over.
    """

    def __init__(self) -> None:
        """Nobody waits."""
        self._line = asyncio.Lock()

    async def turn(self) -> None:
        """Return in a turn of one's own."""
        async with self._line:
            await asyncio.sleep(0)


async def read_strictly(request: Request) -> None:
    """Refuse what dispatch would refuse, too: FastAPI reads bodies leniently."""
    check_content_type(request.scope)
    parse_object(await request.body())


class RouteRequest(BaseModel):
    """Texts as `/v1/completions` would get them, or one conversation as `/v1/chat/completions` would."""

    model_config = ConfigDict(extra="forbid")
    input: str | list[str] | None = None
    messages: list[dict[str, Any]] | None = None


@router.post("/v1/route", dependencies=[Depends(read_strictly)])
async def route(asked: RouteRequest, request: Request) -> dict[str, Any]:
    """Return one decision per text. `router_ms` is what the router took for all of them together."""
    service = request.app.state.service
    if (asked.input is None) == (asked.messages is None):
        raise BadRequestError("Give either `input` (a text or a list of texts) or `messages`", "input")
    if asked.messages is not None:
        texts = [service.texts.of_messages(asked.messages, "messages")]
    else:
        texts = service.texts.of_prompts([asked.input] if isinstance(asked.input, str) else asked.input)
    service.limits.check_count(len(texts), "input", "texts")
    with service.in_flight.slot(endable=False):  # the router has a time limit of its own
        await service.dry_runs.turn()
        decided = await service.decider.routed(texts)
    labels = service.bundle.manifest.label_order
    return {
        "object": "list",
        "bundle": service.bundle.digest,
        "data": [
            {
                "index": index,
                "expert": decision.target.name,
                "model": decision.target.engine_name,
                "reason": decision.reason,
                "confidence": decision.confidence,
                "probabilities": dict(zip(labels, decision.probabilities, strict=False)),
                "router_ms": round(1000 * decided.router_seconds, 3),
            }
            for index, decision in enumerate(decided.decisions)
        ],
    }
