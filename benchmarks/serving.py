"""What does the service cost beside vLLM's own server? `python -m benchmarks.serving BUNDLE [--quick] [--json FILE]`.

Both servers run at once with equal engine flags, which is checked; one of them is loaded at a time, in short windows
of fixed work, there and back (A B B A). Five contenders, for 1, 8 and 32 clients: `vllm`, vLLM's own server, the client
names the adapter; `named`, the same through the service; `routed`, the router chooses (the same experts, by
construction); `base`, no adapter; `ensemble`, vLLM's server again, every expert and the fallback answer each request:
less than ELREA needs, because that also mixes their logits at every token. Then streams of the first two. What routing
adds to a request is measured in a load of its own: every client asks each prompt named and routed, a lone one also
named after a pause as long as the routing took. Last, whether a stream's first event waits for other clients'
classification.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from benchmarks.first_byte import first_byte_figures
from benchmarks.machine import machine
from benchmarks.serving_equality import refuse_unequal
from benchmarks.serving_load import TOKENS, Load, body_of, routed_prompts
from benchmarks.serving_servers import BenchmarkError, Server, both_servers
from benchmarks.serving_table import print_record
from benchmarks.serving_windows import (
    CONTENDERS,
    STREAMS,
    Figures,
    SamePrompt,
    Window,
    figures,
    there_and_back,
    turns_within,
)
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.read import Bundle, read_bundle
from demo.row_file import prompt_of
from demo.rows import SKILLS, make_rows
from router.load import load_router
from service.errors import UsageError

_CLIENTS = (1, 8, 32)
_PROMPTS = 128
_WINDOW_SECONDS = {1: 1.6, 8: 1.2, 32: 1.2}
_LEAST_ROUNDS = 2
_SECONDS = {True: 170.0, False: 800.0}  # of rounds, when quick and when not
_SAME_PROMPT_SECONDS = {True: {1: 60.0, 8: 15.0, 32: 15.0}, False: {1: 200.0, 8: 60.0, 32: 60.0}}
_STREAM_SECONDS = {True: 5.0, False: 30.0}  # of each kind of neighbours


def main(
    bundle: Annotated[
        Path, typer.Argument(help="The folder that `gradientspace train` wrote.", show_default=False)
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: about six minutes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print what the service costs beside vLLM's own server, and what routing and LoRA cost."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="serving-benchmark-"))

    def say(line: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {line}", file=sys.stderr, flush=True)

    try:
        found = read_bundle(bundle)
        router_alone = _router_alone_ms(found)
        with both_servers(bundle, folder, say) as (service, own):
            with asyncio.Runner() as runner:
                record = runner.run(_measured(service, own, found.manifest, quick, say))
            commands = {server.name: server.command for server in (service, own)}
            say("stopping both")
    except (BenchmarkError, BundleError, UsageError) as error:
        print(f"{error}\nThe servers' logs are in {folder}", file=sys.stderr)
        raise typer.Exit(1) from error
    shutil.rmtree(folder)
    record |= {
        "router_alone_p50_ms": router_alone,
        "quick": quick,
        "seconds": time.monotonic() - begin,
        "commands": commands,
        "machine": machine("fastapi", "starlette", "uvicorn", "onnxruntime"),
    }
    print_record(record)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


async def _measured(
    service: Server, own: Server, manifest: Manifest, quick: bool, say: Callable[[str], None]
) -> Figures:
    asked = await routed_prompts(service, manifest, _prompts())
    one = asked[0]
    await refuse_unequal(service, own, body_of(one.prompt, one.expert), (one.expert, one.engine_name))
    say("both servers run alike")
    load = Load(service, own, manifest, asked)
    windows = await _rounds(load, _SECONDS[quick], say)
    say("what routing adds: each prompt named and routed, alone after a pause too")
    seconds = _SAME_PROMPT_SECONDS[quick]
    both_ways = {clients: await _same_prompts(load, clients, seconds[clients]) for clients in _CLIENTS}
    say("the first event of streams beside busy neighbours")
    first_byte = await first_byte_figures(service, asked, _STREAM_SECONDS[quick])
    experts = {name: sum(one.expert == name for one in asked) for name in manifest.label_order}
    return figures(windows, both_ways) | {
        "first_byte": first_byte,
        "prompts_by_expert": experts,
        "tokens": TOKENS,
        "windows": len(windows),
    }


async def _rounds(load: Load, seconds: float, say: Callable[[str], None]) -> list[Window]:
    names = (*CONTENDERS, *STREAMS)
    turns: dict[tuple[str, int], int] = {}
    for clients in _CLIENTS:
        for name in names:
            await load.window(name, clients, 1, 0)  # what the first request of all costs is nobody's
        warm = await load.window("vllm", clients, 2, 0)
        for name in names:
            turns[name, clients] = turns_within(_WINDOW_SECONDS[clients], warm.seconds / 2, load.passes[name])
    windows: list[Window] = []
    begin = time.monotonic()
    for number in range(sys.maxsize):
        if number >= _LEAST_ROUNDS and time.monotonic() - begin > seconds * number / (number + 1):
            break
        for clients in _CLIENTS:
            for half, name in enumerate(there_and_back(names)):
                first = 7 * (2 * number + half // len(names))  # the same prompts for all contenders of a pass
                windows.append(await load.window(name, clients, turns[name, clients], first))
        say(f"round {number + 1} done, {time.monotonic() - begin:.0f} of {seconds:.0f} s")
    return windows


async def _same_prompts(load: Load, clients: int, seconds: float) -> list[SamePrompt]:
    found: list[SamePrompt] = []
    begin = time.monotonic()
    while time.monotonic() - begin < seconds:
        found += await load.same_prompts(clients, 8, len(found))
    return found


def _prompts() -> list[str]:
    per_skill = -(-_PROMPTS // len(SKILLS))
    return [prompt_of(row) for row in make_rows(per_skill, seed=7, split="heldout")][:_PROMPTS]


def _router_alone_ms(bundle: Bundle) -> float:
    """Return the median time of one classification in an idle process: the router's own time."""
    router = load_router(bundle)
    texts = _prompts()
    router.probabilities(texts[:1])
    times = []
    for text in texts:
        start = time.perf_counter()
        router.probabilities([text])
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


if __name__ == "__main__":
    typer.run(main)
