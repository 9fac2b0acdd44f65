"""Processes that can be killed, made in a moment: forked from a server that has imported everything once."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.stand_ins.forked_imports"])
_HANGS_SECONDS = 1500


def forked(
    function: Callable[..., object], *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """Start `function(*arguments)`, which a module must hold; what it says goes to `log`."""
    process = _CONTEXT.Process(target=_run, args=(function, arguments, log, dict(environment or {})))
    process.start()
    return process


def exit_code(process: BaseProcess) -> int | None:
    """Wait for its end; a signal's number is negative."""
    process.join(_HANGS_SECONDS)
    return process.exitcode


def _run(
    function: Callable[..., object], arguments: tuple[Any, ...], log: Path, environment: dict[str, str]
) -> None:
    import datasets

    os.environ |= environment
    datasets.config.HF_DATASETS_CACHE = log.parent / "datasets"
    datasets.config.HF_HUB_OFFLINE = True
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        function(*arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
