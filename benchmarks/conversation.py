"""What is a conversation's one expert worth? `python -m benchmarks.conversation BUNDLE [--json FILE]`.

Ten turns of a chat whose turns belong to different skills, each turn with everything said before it. Routed by its
last user turn (`last_user`, the default) the conversation goes from expert to expert, and vLLM's prefix cache holds the
earlier turns under another adapter; routed by its first (`first_user`) it keeps its expert and its cached prefix. The
names of the experts are given as each rule routes, so one server and one bundle serve both. Answers have one length.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated, Any
from urllib.request import urlopen

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.machine import machine
from benchmarks.serving_client import ask_once
from benchmarks.serving_servers import BenchmarkError, Server, free_port
from bundle.errors import BundleError
from bundle.read import Bundle, read_bundle
from demo.rows import SKILLS, make_rows, prompt_of
from router.load import load_router
from router.text import routed_text
from service.engine.environment import available_cores, prepare_environment

RULES = ("last_user", "first_user")
_TURNS = 10
_ANSWER_TOKENS = 24
_CONTEXT = 2048
_ROWS = 400  # of each skill, for 40 conversations
_CACHED = "vllm:prefix_cache_hits_total"
_COUNTED_SECONDS = 0.2

Messages = list[dict[str, Any]]


def main(
    bundle: Annotated[
        Path, typer.Argument(help="The folder that `gradientspace train` wrote.", show_default=False)
    ],
    conversations: Annotated[int, typer.Option(min=1, max=40, help="Conversations per rule.")] = 6,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print the time to the first token and the cached prompt tokens of every turn, by rule."""
    try:
        with tempfile.TemporaryDirectory(prefix="conversation-benchmark-") as folder:
            record = _measured(read_bundle(bundle), bundle, Path(folder), conversations)
    except (BenchmarkError, BundleError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    record["machine"] = machine("transformers", "torch")
    _print(record)
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def hopping_turns(number: int) -> list[str]:
    """Return the ten user turns of conversation `number`, each of another skill than the one before."""
    by_skill: dict[str, list[str]] = {skill: [] for skill in SKILLS}
    for row in make_rows(_ROWS, seed=11, split="heldout"):
        by_skill[row["source"]].append(prompt_of(row))
    return [by_skill[SKILLS[(number + turn) % len(SKILLS)]][_TURNS * number + turn] for turn in range(_TURNS)]


def _measured(found: Bundle, path: Path, folder: Path, conversations: int) -> dict[str, Any]:
    router, labels = load_router(found), found.manifest.label_order
    # A small base's own context would end within the ten turns; what it says there is of no matter here.
    environment = dict(os.environ) | {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}
    prepare_environment(environment, False, available_cores())
    port = free_port()
    command = ["cli.main", "serve", str(path), "--port", str(port), "--no-request-log"]
    flags = ["--", "--enable-prefix-caching", "--kv-cache-memory-bytes", str(1024**3)]
    flags += ["--max-model-len", str(_CONTEXT)]
    server = Server("the service", [*command, *flags], port, environment, folder / "log")
    turns: dict[str, list[list[dict[str, Any]]]] = {rule: [] for rule in RULES}
    try:
        server.wait_until_ready("/health/ready", lambda line: None)
        asyncio.run(_ask(port, [{"role": "user", "content": "A first one."}], labels[0]))
        for number in range(conversations):
            for rule in RULES if number % 2 else reversed(RULES):
                first, *more = hopping_turns(number)
                # Its own beginning: no rule finds what the other left in the cache.
                said = [f"[{number} {rule}] {first}", *more]
                turns[rule].append(asyncio.run(_converse(port, said, rule, router, labels)))
    finally:
        server.stop()
    return {"rules": {rule: _figures(turns[rule]) for rule in RULES}, "conversations": conversations}


async def _converse(
    port: int, said: list[str], rule: Any, router: Any, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    messages: Messages = []
    turns = []
    for text in said:
        messages.append({"role": "user", "content": text})
        expert = labels[int(router.probabilities([routed_text(messages, rule)]).argmax())]
        before = _cached_tokens(port)
        first_ms, answer, tokens = await _ask(port, messages, expert)
        messages.append({"role": "assistant", "content": answer})
        await asyncio.sleep(_COUNTED_SECONDS)  # the engine's counters come a moment after the last byte
        turns.append(
            {
                "expert": expert,
                "first_token_ms": first_ms,
                "prompt_tokens": tokens,
                "cached_tokens": _cached_tokens(port) - before,
            }
        )
    return turns


async def _ask(port: int, messages: Messages, expert: str) -> tuple[float, str, int]:
    body = {
        "model": expert,
        "messages": messages,
        "max_tokens": _ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reply = await ask_once(port, "/v1/chat/completions", body)
    if reply.status != 200:
        raise BenchmarkError(
            f"A turn was answered {reply.status}: {reply.body.decode(errors='replace')[:300]}"
        )
    events = [
        json.loads(line.removeprefix("data: "))
        for line in reply.body.decode().splitlines()
        if line.startswith("data: {")
    ]
    answer = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    tokens = next(event["usage"]["prompt_tokens"] for event in reversed(events) if event.get("usage"))
    return 1000 * reply.first_seconds, answer, tokens


def _cached_tokens(port: int) -> float:
    """Return the prompt tokens that the engine has found in its prefix cache so far."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{_CACHED}{{"))


def _figures(conversations: list[list[dict[str, Any]]]) -> dict[str, Any]:
    by_turn = [
        {
            "first_token_ms": median(turn["first_token_ms"] for turn in turns),
            "prompt_tokens": median(turn["prompt_tokens"] for turn in turns),
            "cached_tokens": median(turn["cached_tokens"] for turn in turns),
        }
        for turns in zip(*conversations, strict=True)
    ]
    hops = [
        sum(one["expert"] != other["expert"] for one, other in pairwise(turns)) for turns in conversations
    ]
    return {"turns": by_turn, "hops": median(hops)}


def _print(record: dict[str, Any]) -> None:
    table = Table(title="Each turn of a conversation: ms to the first token, cached of all prompt tokens")
    table.add_column("turn", justify="right")
    for rule in RULES:
        table.add_column(f"{rule}, ms", justify="right")
        table.add_column("cached", justify="right")
    for turn in range(_TURNS):
        cells = []
        for rule in RULES:
            found = record["rules"][rule]["turns"][turn]
            cells += [
                f"{found['first_token_ms']:.0f}",
                f"{found['cached_tokens']:.0f} of {found['prompt_tokens']:.0f}",
            ]
        table.add_row(str(turn + 1), *cells)
    console = Console()
    console.print(table)
    hops = ", ".join(f"{rule} {record['rules'][rule]['hops']:.0f}" for rule in RULES)
    console.print(
        f"Changes of expert in {_TURNS} turns: {hops}. Medians of {record['conversations']} conversations."
    )


if __name__ == "__main__":
    typer.run(main)
