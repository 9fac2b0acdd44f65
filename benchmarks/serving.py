"""What does the service cost beside vLLM's own server? `python -m benchmarks.serving BUNDLE [--quick] [--json FILE]`.

Both servers run at once with equal engine flags, which is checked; one of them is loaded at a time, in short windows
of fixed work, there and back (A B B A). Five contenders, for 1, 8 and 32 clients: `vllm`, vLLM's own server, the client
names the adapter; `named`, the same through the service; `routed`, the router chooses (the same experts, by
construction); `base`, no adapter; `ensemble`, every expert and the base answer each request, which is less than ELREA
needs, because that also mixes their logits at every token. Then streams of the first two, and whether a stream's
first event waits for other clients' classification.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.first_byte import first_byte_figures
from benchmarks.serving_equality import refuse_unequal
from benchmarks.serving_load import TOKENS, Load, body_of, routed_prompts
from benchmarks.serving_servers import BenchmarkError, Server, both_servers
from benchmarks.serving_windows import (
    CONTENDERS,
    STREAMS,
    Figures,
    Window,
    figures,
    there_and_back,
    turns_within,
)
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.read import Bundle, read_bundle
from demo.rows import SKILLS, make_rows, prompt_of
from router.load import load_router
from service.errors import UsageError
from training.bundling import git_commit

_CLIENTS = (1, 8, 32)
_PROMPTS = 128
_WINDOW_SECONDS = {1: 1.6, 8: 1.2, 32: 1.2}
_LEAST_ROUNDS = 2
_SECONDS = {True: 120.0, False: 900.0}  # of rounds, when quick and when not
_STREAMS_TO_TIME = {True: 40, False: 200}


def main(
    bundle: Annotated[
        Path, typer.Argument(help="The folder that `gradientspace train` wrote.", show_default=False)
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rounds: about four minutes.")] = False,
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
    except (BenchmarkError, BundleError, UsageError, ValueError) as error:
        print(f"{error}\nThe servers' logs are in {folder}", file=sys.stderr)
        raise typer.Exit(1) from error
    shutil.rmtree(folder)
    record |= {
        "router_alone_p50_ms": router_alone,
        "quick": quick,
        "seconds": time.monotonic() - begin,
        "commands": commands,
        "machine": _machine(),
    }
    _print(record)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


async def _measured(
    service: Server, own: Server, manifest: Manifest, quick: bool, say: Callable[[str], None]
) -> Figures:
    texts = [prompt_of(row) for row in make_rows(_PROMPTS // len(SKILLS) + 1, seed=7, split="heldout")][
        :_PROMPTS
    ]
    asked = await routed_prompts(service, manifest, texts)
    one = asked[0]
    await refuse_unequal(service, own, body_of(one.prompt, one.expert), (one.expert, one.engine_name))
    say("both servers run alike")
    load = Load(service, own, manifest, asked)
    windows = await _rounds(load, _SECONDS[quick], say)
    say("the first event of streams beside busy neighbours")
    first_byte = await first_byte_figures(service, asked, _STREAMS_TO_TIME[quick])
    experts = {name: sum(one.expert == name for one in asked) for name in manifest.label_order}
    return figures(windows) | {
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
        say(f"round {number + 1} of about {seconds / ((time.monotonic() - begin) / (number + 1)):.0f}")
    return windows


def _router_alone_ms(bundle: Bundle) -> float:
    """Return the median time of one classification in an idle process: the router's own time."""
    router = load_router(bundle)
    texts = [prompt_of(row) for row in make_rows(_PROMPTS // len(SKILLS) + 1, seed=7, split="heldout")][
        :_PROMPTS
    ]
    router.probabilities(texts[:1])
    times = []
    for text in texts:
        start = time.perf_counter()
        router.probabilities([text])
        times.append(1000 * (time.perf_counter() - start))
    return median(times)


def _print(record: Figures) -> None:
    console = Console()
    counts = record["requests_per_s"].keys()
    speed = Table(
        title=f"Requests per second, {record['tokens']} tokens each", box=None, padding=(0, 2, 0, 0)
    )
    for heading in ("clients", *CONTENDERS, "named/vllm", "streams", "named/base"):
        speed.add_column(heading, justify="right", no_wrap=True)
    for clients in counts:
        of = record["by_clients"][clients]
        speed.add_row(
            clients,
            *(f"{record['requests_per_s'][clients][name]:.1f}" for name in CONTENDERS),
            *(
                f"{of[name]['median']:.3f}"
                for name in ("named_over_vllm", "named_over_vllm_streams", "named_over_base")
            ),
        )
    console.print(speed)
    late = Table(title="Median latency in ms", box=None, padding=(0, 2, 0, 0))
    for heading in ("clients", "vllm", "named", "routed", "routed - named", "router", "beyond router"):
        late.add_column(heading, justify="right", no_wrap=True)
    for clients in counts:
        of = record["by_clients"][clients]
        late.add_row(
            clients,
            *(f"{of['p50_ms'][name]:.1f}" for name in ("vllm", "named", "routed")),
            *(
                f"{of[name]:.2f}"
                for name in ("routed_minus_named_p50_ms", "router_p50_ms", "beyond_router_p50_ms")
            ),
        )
    console.print(late)
    busy = Table(title="Busy cores / CPU ms per request", box=None, padding=(0, 2, 0, 0))
    for heading in ("clients", "contender", "engine", "HTTP", "client", "others' cores"):
        busy.add_column(heading, justify="right", no_wrap=True)
    for clients in counts:
        of = record["by_clients"][clients]
        for name in ("vllm", "named", "routed", "base"):
            cores, spent = of["busy_cores"][name], of["cpu_ms_per_request"][name]
            cells = (
                f"{cores[process]:.2f} / {spent[process]:.1f}" for process in ("engine", "api", "client")
            )
            busy.add_row(clients, name, *cells, f"{cores['others']:.2f}")
    console.print(busy)
    waits, neighbours = record["first_byte"]["first_event_ms"], record["first_byte"]["neighbours"]
    said = ", ".join(f"{kind} {found['p50']:.0f} / {found['p95']:.0f}" for kind, found in waits.items())
    console.print(
        f"First event of a named stream, ms at p50 / p95, beside {neighbours} neighbours: {said}.",
        soft_wrap=True,
    )
    console.print(
        f"named/vllm at least {record['named_over_vllm']:.3f}; the router alone takes "
        f"{record['router_alone_p50_ms']:.2f} ms; {record['seconds']:.0f} s in all.",
        soft_wrap=True,
    )


def _machine() -> Figures:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("fastapi", "starlette", "uvicorn", "onnxruntime")},
    }


if __name__ == "__main__":
    typer.run(main)
