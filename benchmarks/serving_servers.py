"""The service and vLLM's own server: both started with equal settings, and ended whatever happens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

import psutil

from benchmarks.serving_flags import vllm_flags
from service.engine.environment import available_cores, prepare_environment
from service.settings import ENV_PREFIX

# The cache's size would otherwise follow the memory that is free at the moment. Without cached prefixes a
# prompt costs the same however often it was asked, so all contenders can be asked the same prompts.
ENGINE_FLAGS = ("--kv-cache-memory-bytes", str(1024**3), "--no-enable-prefix-caching")
# How the service runs its own HTTP server: uvicorn's access log costs either some 15 microseconds a request.
HTTP_FLAGS = ("--host", "127.0.0.1", "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning")
_VLLMS_LOG = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"plain": {"class": "logging.StreamHandler"}},
    "loggers": {"vllm": {"handlers": ["plain"], "level": "INFO", "propagate": False}},
}
_ROOT = Path(__file__).parents[1]
_START_SECONDS = 600
_STOP_SECONDS = 60
_LOG_LINES = 15  # of a server that did not start


class BenchmarkError(RuntimeError):
    """The benchmark can't go on; the message is for the user."""


class Server:
    """A server in a session of its own: Ctrl-C ends the benchmark, and the benchmark ends the server."""

    def __init__(
        self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path
    ) -> None:
        """Start the module and arguments of `command`, which listens on `port`."""
        self.name = name
        self.port = port
        self.command = list(command)
        self._log = log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=_ROOT,
                env=dict(environment),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    @property
    def api_process(self) -> psutil.Process:
        """The process that speaks HTTP."""
        return psutil.Process(self.pid)

    @property
    def engine_processes(self) -> list[psutil.Process]:
        """Every process that it started."""
        return self.api_process.children(recursive=True)

    def wait_until_ready(self, path: str, say: Callable[[str], None]) -> None:
        """Wait until `path` answers 200.

        Raises:
            BenchmarkError: it ended, or took too long.

        """
        start = time.monotonic()
        while not _answers(f"http://127.0.0.1:{self.port}{path}"):
            if self._process.poll() is not None:
                last = "\n".join(self.log.splitlines()[-_LOG_LINES:])
                raise BenchmarkError(
                    f"{self.name} ended with {self._process.returncode} before it was ready:\n{last}"
                )
            if time.monotonic() - start > _START_SECONDS:
                raise BenchmarkError(f"{self.name} was not ready after {_START_SECONDS} s")
            time.sleep(0.3)
        say(f"{self.name} is ready")

    def stop(self) -> None:
        """End it with everything it started."""
        if self._process.poll() is not None:
            return
        family = [self.api_process, *self.engine_processes]
        self._process.send_signal(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=_STOP_SECONDS)
        for process in left:
            process.kill()
        self._process.wait()


@contextmanager
def both_servers(bundle: Path, folder: Path, say: Callable[[str], None]) -> Iterator[tuple[Server, Server]]:
    """Start the service and vLLM's own server; their logs go into `folder`.

    Raises:
        BenchmarkError: one of them does not start, or they can't be given equal arguments.

    """
    environment = server_environment(folder)
    with ExitStack() as stack:

        def started(name: str, module: str, arguments: Sequence[str], port: int) -> Server:
            say(f"starting {name}")
            with interrupted_afterwards():
                server = Server(name, [module, *arguments], port, environment, folder / f"{name}.log")
                stack.callback(server.stop)
            return server

        port = free_port()
        quiet = "--no-request-log"  # vLLM's server writes no access log here either
        memory = ("--router-memory", "0")  # prompts are asked again and again
        options = ["serve", str(bundle.resolve()), "--port", str(port), quiet, *memory, "--", *ENGINE_FLAGS]
        service = started("service", "cli.main", options, port)
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
                flags = apart.submit(vllm_flags, bundle.resolve(), ENGINE_FLAGS).result()
        except ValueError as error:
            raise BenchmarkError(str(error)) from error
        port = free_port()
        options = ["--port", str(port), *HTTP_FLAGS, *flags]
        own = started("vllm", "vllm.entrypoints.launchers.api_server.entry", options, port)
        service.wait_until_ready("/health/ready", say)
        own.wait_until_ready("/health", say)
        yield service, own


@contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Hold Ctrl-C back for a block: a process that is just being started has nobody yet who would end it."""
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def server_environment(folder: Path) -> dict[str, str]:
    """Return what a server gets: what the service would set for itself, and vLLM's log for the comparison."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    logging = folder / "logging.json"
    logging.write_text(json.dumps(_VLLMS_LOG), encoding="utf-8")
    environment |= {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_LOGGING_CONFIG_PATH": str(logging)}
    prepare_environment(environment, False, available_cores())
    return environment


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def free_port() -> int:
    """Return a port that nobody listens on at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
