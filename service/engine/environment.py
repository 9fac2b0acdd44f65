"""Environment variables that vLLM, torch and the hub's client read when they are imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from service.errors import UsageError

SMALL_MACHINE_CORES = 2


def quiet_libraries(environ: MutableMapping[str, str]) -> None:
    """Silence libraries' notes to their developers, which are printed past every log; before any process is started."""
    environ.setdefault("PYTHONWARNINGS", "ignore")
    environ.setdefault("TORCH_LOGS", "-all")
    environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def prepare_environment(environ: MutableMapping[str, str], verbose: bool, cores: int) -> None:
    """Set what has to stand before vLLM is imported; what the user has set stays, if it may.

    vLLM on a CPU runs its model in a process of its own, only to bind that process's OpenMP threads to
    cores. With one thread there is nothing to bind: two processes instead of three, ready in about half
    the time, and requests as fast. So that form is the default where OMP_NUM_THREADS is 1, and on
    machines of one or two cores it is 1 by default, because the router needs a core too. More threads
    without the binding would be slow (measured: 9.7 s instead of 0.25 s), so vLLM's form stays there.

    Raises:
        UsageError: a variable asks for what this service does not do.

    """
    if environ.get("VLLM_API_KEY"):
        raise UsageError(
            "VLLM_API_KEY is set, but vLLM's key check would not guard this service's routes. Unset it, and "
            "give keys with --api-key-file or GRADIENTSPACE_API_KEY"
        )
    environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "0"  # no client may ever load a path
    environ["VLLM_NO_USAGE_STATS"] = "1"
    environ["HF_HUB_OFFLINE"] = "1"  # the base is a folder by now, nothing else is to be fetched
    environ.setdefault("VLLM_LOGGING_LEVEL", "INFO" if verbose else "ERROR")
    environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # standard output is for the ready lines
    if not verbose:
        quiet_libraries(environ)
    if cores <= SMALL_MACHINE_CORES:
        environ.setdefault("OMP_NUM_THREADS", "1")
    if environ.get("OMP_NUM_THREADS") == "1":
        environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
