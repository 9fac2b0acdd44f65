"""Signals to the whole process group, in a process that starts a child as the service starts its engine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# The child ends by itself when its standard input closes, and says how.
CHILD = "import sys; sys.stdin.read(); print('child was left alone', flush=True)"
PROGRAM = f"""
import subprocess, sys, threading
from service.signals import Signals, StoppedError

serving = sys.argv[1] == "serving"
asked = threading.Event()
with Signals() as signals:
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdin=subprocess.PIPE)
    if serving:
        signals.serving(asked.set)
    try:
        print("begun", flush=True)
        asked.wait(60)
    except StoppedError:
        asked.set()
    print("asked to stop" if asked.is_set() else "not asked", flush=True)
    child.stdin.close()
    child.wait()
"""


@pytest.mark.parametrize("state", ["starting", "serving"])
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
    said, _ = process.communicate(timeout=120)
    assert said.splitlines() == ["asked to stop", "child was left alone"]
    assert process.returncode == 0
