"""A request belongs to the version it came to; what a reload refuses without an engine."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from bundle.read import Bundle
from service.engine.arguments import args_for, engine_args
from service.errors import UsageError
from service.versions.versions import Version, Versions


class SlowApp:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.answered = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go.wait()
        self.answered += 1


def version(app: SlowApp) -> Version:
    nothing: Any = None
    return Version(bundle=nothing, loaded=nothing, router=nothing, app=app)


async def test_a_request_stays_with_the_version_it_came_to() -> None:
    old, new = SlowApp(), SlowApp()
    versions = Versions(first := version(old))
    call: Any = ({"type": "http"}, None, None)
    early = [asyncio.create_task(versions(*call)) for _ in range(2)]
    await asyncio.sleep(0)
    assert versions.switch(version(new)) is first
    late = asyncio.create_task(versions(*call))
    left = asyncio.create_task(versions.last_answer(first))
    new.go.set()
    await late
    assert (old.answered, new.answered) == (0, 1)
    assert not left.done()
    old.go.set()
    await asyncio.gather(*early)
    await asyncio.wait_for(left, 120)
    assert (old.answered, new.answered) == (2, 1)


async def test_a_version_without_a_request_has_left() -> None:
    versions = Versions(first := version(SlowApp()))
    versions.switch(version(SlowApp()))
    await asyncio.wait_for(versions.last_answer(first), 120)


async def test_a_request_that_fails_is_over_too() -> None:
    class Failing(SlowApp):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("boom")

    versions = Versions(first := version(Failing()))
    with pytest.raises(RuntimeError):
        await versions({"type": "http"}, None, None)  # type: ignore[arg-type]
    versions.switch(version(SlowApp()))
    await asyncio.wait_for(versions.last_answer(first), 120)


def test_a_bundle_that_does_not_fit_the_running_engine(bundle: Bundle) -> None:
    adapters, modules = len(bundle.manifest.adapters), list(bundle.manifest.lora.target_modules)

    def running(max_loras: int = adapters, rank: int = 64, of: list[str] = modules) -> Namespace:
        return Namespace(
            max_loras=max_loras,
            max_lora_rank=rank,
            lora_target_modules=of,
            given_tool_call_parser=None,
            given_tool_strict_level=None,
        )

    fitting = running()
    assert args_for(bundle, fitting).chat_template == bundle.chat_template.read_text()
    with pytest.raises(UsageError, match=f"{adapters} adapters .* started for {adapters - 1}"):
        args_for(bundle, running(adapters - 1))
    with pytest.raises(UsageError, match=f"rank {bundle.manifest.lora.rank} is above 1,"):
        args_for(bundle, running(rank=1))
    with pytest.raises(UsageError, match=f"adapts {modules[0]}, .* started for adapters of"):
        args_for(bundle, running(of=modules[1:]))


@pytest.mark.parametrize("flags", [["--max-logprobs", "5"], ["--logprobs-mode", "raw_logits"]])
def test_flags_that_would_blind_the_fingerprint_check(bundle: Bundle, base: Any, flags: list[str]) -> None:
    with pytest.raises(UsageError, match=flags[0]):
        engine_args(bundle, base, flags)
