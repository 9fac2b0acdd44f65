"""A list of prompts that several experts have to answer: one request in, one answer out.

Each expert gets the prompts that are its own as a request inside the process, and the answers are put
together: choices keep the numbers that the client expects, usage is summed, streams are interleaved.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Message, Receive, Send

from service.dispatch.incoming import Incoming
from service.errors import BadRequestError, error_body, error_response
from service.headers import REQUEST_ID
from service.request.names import AUTO, Target

Run = Callable[[Incoming, Target, dict[str, Any], Receive, Send], Awaitable[None]]
_DONE = "[DONE]"
_log = logging.getLogger(__name__)


@dataclass
class _Part:
    """One expert's share of the request."""

    target: Target
    places: list[int]
    """Where its prompts stand in the client's list."""
    messages: asyncio.Queue[Message | None] = field(default_factory=lambda: asyncio.Queue(maxsize=8))
    """What the engine answers, None at the end; bounded, so a slow client slows the engine's stream."""
    start: Message = field(default_factory=lambda: {"type": "http.response.start", "status": 500})
    ended: bool = False
    unread: bool = False
    """Nobody reads any more, so what still comes is thrown away."""

    async def put(self, message: Message) -> None:
        """Take a message of the engine's answer."""
        if not self.unread:
            await self.messages.put(message)

    def stop_reading(self) -> None:
        """Let an engine that waits to put a message go on."""
        self.unread = True
        while not self.messages.empty():
            self.messages.get_nowait()

    async def started(self) -> None:
        """Wait for the start of the answer."""
        first = await self.messages.get()
        if first is None:
            self.ended = True
        else:
            self.start = first

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the answer's body as it comes."""
        while not self.ended:
            message = await self.messages.get()
            if message is None:
                self.ended = True
            else:
                yield message.get("body", b"")

    async def whole(self) -> bytes:
        """Return the answer's body."""
        return b"".join([chunk async for chunk in self.chunks()])

    def renumber(self, choices: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
        """Give the choices their numbers in the client's list; each prompt has `n` of them."""
        for choice in choices:
            prompt, copy = divmod(choice["index"], n)
            choice["index"] = self.places[prompt] * n + copy
        return choices


async def answer_prompt_list(incoming: Incoming, run: Run, receive: Receive, send: Send) -> None:
    """Answer a `/v1/completions` request whose prompts need several targets.

    `run` has the engine answer one part. If one part fails, that error is the answer of the whole.
    """
    try:
        n = _copies(incoming.body)
    except BadRequestError as error:
        await error_response(error)(incoming.scope, receive, send)
        return
    parts = [_Part(target, places) for target, places in incoming.decided.by_target.items()]
    stop = asyncio.Event()  # the client left, or one part failed: the engine stops all of them
    watch = asyncio.create_task(_watch(receive, stop))
    tasks = [asyncio.create_task(_run_part(incoming, run, part, stop)) for part in parts]
    try:
        failed = await _first_failure(parts)
        if failed is not None:
            await send(failed.start)
            await send({"type": "http.response.body", "body": await failed.whole()})
        elif incoming.body.get("stream"):
            events = _interleaved(parts, n, _answer_id(incoming))
            await StreamingResponse(events, media_type="text/event-stream")(
                incoming.scope, _until(stop), send
            )
        else:
            bodies = await asyncio.gather(*(part.whole() for part in parts))
            if not stop.is_set():
                merged = _merged(parts, [json.loads(body) for body in bodies], n, _answer_id(incoming))
                await JSONResponse(merged)(incoming.scope, receive, send)
    finally:
        stop.set()
        watch.cancel()
        for part in parts:
            part.stop_reading()
        await asyncio.gather(watch, *tasks, return_exceptions=True)


async def _first_failure(parts: list[_Part]) -> _Part | None:
    """Wait until one part fails, or until all have begun to answer; only a stream begins before it is done."""
    waiting = {asyncio.create_task(part.started()): part for part in parts}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for part in [waiting.pop(task) for task in done]:
                if part.start["status"] >= 400:
                    return part
        return None
    finally:
        for task in waiting:
            task.cancel()


def _copies(body: dict[str, Any]) -> int:
    n = body.get("n") or 1
    try:
        copies = int(n)
    except (OverflowError, TypeError, ValueError) as error:
        raise BadRequestError("n: give a whole number", "n") from error
    if isinstance(n, float) and copies != n:
        raise BadRequestError("n: give a whole number", "n")
    return max(1, copies)


def _answer_id(incoming: Incoming) -> str:
    ids = [
        value.decode("latin-1") for name, value in incoming.scope["headers"] if name == REQUEST_ID.encode()
    ]
    return f"cmpl-{ids[0] if ids else 'split'}"


async def _watch(receive: Receive, stop: asyncio.Event) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    stop.set()


def _until(stop: asyncio.Event) -> Receive:
    async def receive() -> Message:
        await stop.wait()
        return {"type": "http.disconnect"}

    return receive


async def _run_part(incoming: Incoming, run: Run, part: _Part, stop: asyncio.Event) -> None:
    prompts = incoming.body["prompt"]
    body = incoming.body | {"prompt": [prompts[place] for place in part.places]}
    try:
        await run(incoming, part.target, body, _until(stop), part.put)
    finally:
        await part.messages.put(None)


def _merged(parts: list[_Part], answers: list[Any], n: int, answer_id: str) -> dict[str, Any]:
    choices = [
        choice | {"model": answer["model"]}
        for part, answer in zip(parts, answers, strict=True)
        for choice in part.renumber(answer["choices"], n)
    ]
    return answers[0] | {
        "id": answer_id,
        "model": AUTO,  # several answered; each choice says who gave it
        "choices": sorted(choices, key=lambda choice: choice["index"]),
        "usage": _summed([answer.get("usage") for answer in answers]),
        "metrics": None,  # as the engine does for several prompts: they belong to one of them
    }


def _summed(usages: list[Any]) -> Any:
    """Add up the numbers of usage objects, whatever fields the engine puts into them."""
    given = [usage for usage in usages if usage is not None]
    if not given:
        return None
    if isinstance(given[0], dict):
        keys = {key: None for usage in given for key in usage}
        return {key: _summed([usage.get(key) for usage in given]) for key in keys}
    return sum(given) if isinstance(given[0], int | float) else given[0]


async def _interleaved(parts: list[_Part], n: int, answer_id: str) -> AsyncIterator[str]:
    """Yield the events of all parts as they come; each says in `model` which expert speaks.

    If a part fails or its stream breaks off, its error is the last event, and the others are stopped.
    """
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(maxsize=8)
    pumps = [asyncio.create_task(_pump(part, n, events)) for part in parts]
    usages, running = [], len(parts)
    last: dict[str, Any] = {}
    try:
        while running:
            event = await events.get()
            if event is None:
                running -= 1
                continue
            if "choices" not in event:
                yield _event(event)
                break
            event["id"] = answer_id
            if event["choices"]:
                yield _event(event)
            else:  # the closing event of `include_usage`: one for all
                usages.append(event.get("usage"))
                last = event
        else:
            if usages:
                yield _event(last | {"model": AUTO, "usage": _summed(usages), "metrics": None})
        yield f"data: {_DONE}\n\n"
    finally:
        for task in pumps:
            task.cancel()


def _event(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event)}\n\n"


async def _pump(part: _Part, n: int, events: asyncio.Queue[dict[str, Any] | None]) -> None:
    """Put a part's events into the common queue: None at its proper end, an error if it has none."""
    try:
        async for data in _events(part.chunks()):
            if data == _DONE:
                return await events.put(None)
            event = json.loads(data)
            part.renumber(event.get("choices", []), n)
            await events.put(event)
    except Exception:  # what the engine sent is no stream of completions
        _log.exception("A part of a split stream can't be read")
    return await events.put(error_body(500, "The answer broke off: one of the experts failed"))


async def _events(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Yield the data of server-sent events, however the bytes were cut."""
    pending = b""
    async for chunk in chunks:
        pending += chunk
        *complete, pending = pending.split(b"\n\n")
        for event in complete:
            if event.startswith(b"data: "):
                yield event.removeprefix(b"data: ").decode()
