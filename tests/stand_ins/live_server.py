"""A real server in a process of its own, as a user starts it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

COMMAND = [sys.executable, "-m", "cli.main", "serve"]
ROOT = Path(__file__).parents[2]
START_SECONDS = 900
STOP_SECONDS = 300
ADMIN_KEY = "the-admins-own"


def environment() -> dict[str, str]:
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # the demo's base ends at 512 tokens, too soon to be cut off
        "PYTHONUNBUFFERED": "1",
        "GRADIENTSPACE_ROUTER_SECONDS": "120",  # on a busy machine too, what is routed is the same
        "GRADIENTSPACE_ADMIN_KEY": ADMIN_KEY,
    }


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class LiveServer:
    def __init__(self, bundle: Path, folder: Path, *options: str, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.out, self.err = folder / "server.out", folder / "server.err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*COMMAND, str(bundle), "--port", str(self.port), *options],
                cwd=ROOT,
                env=environment() | variables,
                stdout=out,
                stderr=err,
                start_new_session=True,  # its process group is what a terminal would send Ctrl-C to
            )

    def wait_until_said(self, text: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while text not in self.err.read_text() + self.out.read_text():
            if self.process.poll() is not None:
                raise AssertionError(
                    f"the server ended with {self.process.returncode}:\n{self.err.read_text()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"{text!r} was not said in {START_SECONDS} s:\n{self.err.read_text()}")
            time.sleep(0.2)

    def wait_until_ready(self) -> None:
        self.wait_until_said("ready after")
        assert httpx.get(f"{self.url}/health/ready").json() == {"status": "ready"}

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def engine(self) -> psutil.Process:
        return next(one for one in self.family() if "EngineCore" in one.name() + " ".join(one.cmdline()))

    def wait_until_an_engine_runs(self) -> None:
        """Wait for the engine's process; it has its weights to read then."""
        deadline = time.monotonic() + START_SECONDS
        while len(self.family()) == 1:
            assert self.process.poll() is None, self.err.read_text()
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.05)

    def exit_code(self) -> int:
        return self.process.wait(STOP_SECONDS)


def still_running(family: list[psutil.Process]) -> list[str]:
    """What of a server is left, given a moment to end: the semaphore tracker outlives its parent a little."""
    _, alive = psutil.wait_procs(family, timeout=60)
    return [str(process) for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def started(bundle: Path, folder: Path, *options: str, **variables: str) -> Iterator[LiveServer]:
    """A server that is gone afterwards, whatever the test did to it."""
    server = LiveServer(bundle, folder, *options, **variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            family = server.family()
            server.process.send_signal(signal.SIGTERM)
            try:
                server.exit_code()
            finally:
                for process in family:
                    if process.is_running():
                        process.kill()
