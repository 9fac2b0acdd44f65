"""Signals to the whole process group, in a process that starts a child as the service starts its engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

# The child ends by itself when its standard input closes, and says how.
CHILD = "import sys; sys.stdin.read(); print('child was left alone', flush=True)"
PROGRAM = f"""
import asyncio, subprocess, sys, threading
from uvicorn.loops.auto import auto_loop_factory
from service.lifecycle.signals import Signals, StoppedError

state = sys.argv[1]
asked = threading.Event()

async def wait():
    try:
        print("begun", flush=True)
        await asyncio.sleep(60)
    finally:
        print("cleaned up", flush=True)

with Signals() as signals:
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
    if state == "serving":
        signals.serving(asked.set)
    try:
        if state == "starting, in the event loop":
            with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
                runner.run(wait())
        else:
            print("begun", flush=True)
            asked.wait(60)
    except StoppedError:
        asked.set()
    print("asked to stop" if asked.is_set() else "not asked", flush=True)
    child.stdin.close()
    child.wait()
"""


@pytest.mark.parametrize("state", ["starting", "starting, in the event loop", "serving"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_reaches_us_and_not_the_engine(
    state: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, number)
    said, _ = process.communicate(timeout=600)
    cleaned = ["cleaned up"] if "event loop" in state else []
    assert said.splitlines() == [*cleaned, "asked to stop", "child was left alone"]
    assert process.returncode == 0
