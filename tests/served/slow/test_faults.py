"""Stops and deaths with many answers under way, each with a server of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundle.manifest import Manifest
from tests.stand_ins.live_server import started, still_running
from tests.stand_ins.many_clients import Heard, ask, open_client

pytestmark = pytest.mark.slow

LONG = {"max_tokens": 3000, "ignore_eos": True}
LONG_RESPONSE = {"max_output_tokens": 3000, "ignore_eos": True}
AT_LENGTH = ("--", "--max-model-len", "4096")
MESSAGES = [{"role": "user", "content": "Once upon a time"}]


def long_requests(base: str) -> list[tuple[str, dict[str, Any]]]:
    """One long request for every way to answer at length."""
    prompt = {"model": base, "prompt": "Once upon a time"} | LONG
    chat = {"model": base, "messages": MESSAGES} | LONG
    return [
        ("/v1/completions", prompt | {"stream": True}),
        ("/v1/completions", prompt),
        ("/v1/chat/completions", chat | {"stream": True}),
        ("/v1/chat/completions", chat),
        ("/v1/messages", chat | {"stream": True}),
        ("/v1/responses", {"model": base, "input": "Once", "stream": True} | LONG_RESPONSE),
    ]


async def begun(
    client: httpx.AsyncClient, asked: list[tuple[str, dict[str, Any]]]
) -> list[asyncio.Task[Heard]]:
    """Ask everything, and return when every stream has begun."""
    events = {place: asyncio.Event() for place, (_, body) in enumerate(asked) if body.get("stream")}
    tasks = [
        asyncio.create_task(ask(client, path, body, events.get(place)))
        for place, (path, body) in enumerate(asked)
    ]
    streams = asyncio.gather(*(event.wait() for event in events.values()))
    await asyncio.wait([streams, *tasks], return_when=asyncio.FIRST_COMPLETED, timeout=120)
    assert streams.done(), [task.result() for task in tasks if task.done()]
    return tasks


async def test_sigterm_to_the_whole_group_cuts_none_of_32_streams_off(
    demo_bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    base = manifest.base.name
    short = {"model": base, "prompt": "Once", "max_tokens": 40, "ignore_eos": True, "stream": True}
    with started(demo_bundle, tmp_path, "--shutdown-seconds", "5", *AT_LENGTH) as server:
        server.wait_until_ready()
        family = server.family()
        asked = [("/v1/completions", short)] * 10 + (long_requests(base) * 4)[:22]
        assert len(asked) == 32
        async with open_client(server.url) as client:
            answers = await begun(client, asked)
            start = time.monotonic()
            os.killpg(server.process.pid, signal.SIGTERM)
            while (await client.get("/health/ready")).status_code == 200:
                await asyncio.sleep(0.02)
            assert (await client.get("/health/live")).status_code == 200
            late = await ask(client, "/v1/completions", short)
            assert late.status == 503
            assert late.headers["retry-after"]
            assert late.errors[0]["type"] == "ServiceUnavailableError"
            heard = await asyncio.gather(*answers)
            seconds = time.monotonic() - start
        assert server.exit_code() == 0
        assert still_running(family) == []
        assert "Traceback" not in server.err.read_text()
    finished = [one for one in heard if not one.errors]
    ended = [one for one in heard if one.errors]
    print(f"{len(finished)} finished, {len(ended)} ended with an error, all within {seconds:.1f} s")
    assert len(finished) >= 10, "short answers should have been finished"
    assert ended, "nothing was left to end: the machine is too fast for this test's lengths"
    for (_, body), one in zip(asked, heard, strict=True):
        assert one.done or not body.get("stream"), f"cut off: {one}"
        if one.errors:
            assert one.errors[0]["code"] == 503
            assert one.status == (200 if body.get("stream") else 503)
            assert set(one.errors[0]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("worker_process", [False, True])
async def test_the_engines_death_is_told_to_everybody_and_then_ends_the_service(
    demo_bundle: Path, manifest: Manifest, tmp_path: Path, worker_process: bool
) -> None:
    stated = 8
    form = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"} if worker_process else {}
    with started(demo_bundle, tmp_path, "--engine-death-seconds", str(stated), *AT_LENGTH, **form) as server:
        server.wait_until_ready()
        family = server.family()
        async with open_client(server.url) as client:
            answers = await begun(client, long_requests(manifest.base.name))
            server.engine().kill()
            start = time.monotonic()
            while (await client.get("/health/ready")).status_code == 200:
                await asyncio.sleep(0.05)
            noticed = time.monotonic() - start
            assert noticed < 5
            for one in await asyncio.gather(*answers):
                assert one.errors
                assert one.done or one.status == 503
            while time.monotonic() - start < stated - 2:
                refused = await ask(client, "/v1/completions", {"prompt": "Once"})
                assert refused.status == 503
                assert refused.errors[0]["message"].startswith("The engine died")
                await asyncio.sleep(0.2)
        assert server.exit_code() == 1
        print(f"noticed after {noticed:.2f} s, ended after {time.monotonic() - start:.1f} s")
        assert time.monotonic() - start >= stated - 1
        assert still_running(family) == []
        assert "The engine died" in server.err.read_text()


async def test_a_signal_ends_the_wait_after_the_engines_death(demo_bundle: Path, tmp_path: Path) -> None:
    with started(demo_bundle, tmp_path, "--engine-death-seconds", "600") as server:
        server.wait_until_ready()
        family = server.family()
        server.engine().kill()
        while httpx.get(f"{server.url}/health/ready").status_code == 200:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        assert server.exit_code() == 1
        assert still_running(family) == []
