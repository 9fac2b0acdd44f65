"""What a person at the terminal sees while the service starts."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bundle.read import Bundle
from service import logs
from service.request.names import AUTO

_TICK_SECONDS = 10.0  # ours: a log gets a line this often, a terminal sees the seconds run


def say(line: str) -> None:
    """Print one line of progress."""
    logging.getLogger(logs.CONSOLE).info("%s", line)


def say_ready(host: str, port: int, seconds: float) -> None:
    """Print that it is ready and a command to paste; where lines are JSON, without the command."""
    lines = ready_lines(host, port, seconds)
    if logs.as_json():
        say(lines.partition(" (")[0])
    else:
        with contextlib.suppress(OSError):  # a full disk or a closed pipe ends no service
            print(lines, flush=True)


def describe(bundle: Bundle) -> str:
    """Return what is about to be served, in one line."""
    manifest = bundle.manifest
    names = [expert.name for expert in manifest.experts]
    experts = f"{len(names)} experts ({', '.join(names)})" if names else "no expert helps, the fallback alone"
    return (
        f"bundle {bundle.digest}: {experts}, "
        f"LoRA rank {manifest.lora.rank}, base {manifest.base.name} in {manifest.base.dtype}"
    )


@contextmanager
def ticking(what: str) -> Iterator[None]:
    """Say `what`, and how long it has been going on, until the block ends."""
    over = threading.Event()
    start = time.monotonic()

    def tick() -> None:
        terminal = sys.stderr.isatty() and not logs.as_json()
        while not over.wait(1.0 if terminal else _TICK_SECONDS):
            seconds = f"{what}: {time.monotonic() - start:.0f} s"
            if terminal:
                print(seconds, end="\r", file=sys.stderr, flush=True)
            else:
                say(seconds)
        if terminal:
            print(file=sys.stderr)

    say(what)
    ticker = threading.Thread(target=tick, name="ticker", daemon=True)
    ticker.start()
    try:
        yield
    finally:
        over.set()
        ticker.join()


def ready_lines(host: str, port: int, seconds: float) -> str:
    """Return the line that says it is ready, and a command to paste."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
    body = json.dumps(
        {
            "model": AUTO,
            "messages": [{"role": "user", "content": "Write a short story about a cat."}],
            "max_tokens": 64,
        }
    )
    return (
        f"ready after {seconds:.0f} s on {url} (Ctrl-C ends it). Try, better with a prompt like your rows:\n"
        f"curl -s {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'"
    )
