"""Whether both servers really run alike: read from what runs, not from what was asked for."""

from __future__ import annotations

import json
import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.serving_client import Connection, ask_once
from benchmarks.serving_flags import differences
from benchmarks.serving_servers import BenchmarkError, Server

_CONFIG = re.compile(r"Initializing a V1 LLM engine .*? with config: (.*)")
_MATTERS = re.compile(r"((OMP|MKL|KMP|GOMP|VLLM|TORCH\w*|PYTORCH|MALLOC|TOKENIZERS)_\w+|LD_PRELOAD)")


async def refuse_unequal(service: Server, own: Server, body: dict[str, Any], names: tuple[str, str]) -> None:
    """Compare both; `body` is a chat request without `model`, asked of an adapter by its name at each.

    Raises:
        BenchmarkError: something differs; it says what.

    """
    found = [
        await _seen(server, body | {"model": name})
        for server, name in zip((service, own), names, strict=True)
    ]
    unequal = differences(*found)
    if unequal:
        raise BenchmarkError("the servers do not run alike, so nothing was measured:\n" + "\n".join(unequal))


async def _seen(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    reply = await ask_once(server.port, "/v1/chat/completions", body)
    if reply.status != 200:
        raise BenchmarkError(f"{server.name} answered {reply.status}: {reply.body[:300]!r}")
    answer = json.loads(reply.body)
    engine = max(server.engine_processes, key=lambda process: process.memory_info().rss)
    return {
        "engine's own line on its configuration": _config_line(server),
        # A hash of vLLM over its whole configuration: LoRA ranks and counts and the scheduler's limits are in it.
        "system_fingerprint of an answer": answer["system_fingerprint"],
        **{f"cache: {name}": value for name, value in (await _cache(server)).items()},
        **{
            f"environment: {name}": value
            for name, value in environment_that_matters(engine.environ()).items()
        },
        "cores of the engine": engine.cpu_affinity(),
        "cores of the HTTP process": server.api_process.cpu_affinity(),
        "niceness": [process.nice() for process in (server.api_process, engine)],
        "prompt tokens": answer["usage"]["prompt_tokens"],  # of the chat template too
        "greedy answer": answer["choices"][0]["message"]["content"],
    }


def environment_that_matters(environment: dict[str, str]) -> dict[str, str]:
    """Return the variables that torch, OpenMP, the allocator and vLLM read."""
    return {name: value for name, value in environment.items() if _MATTERS.fullmatch(name)}


def _config_line(server: Server) -> str:
    found = _CONFIG.search(server.log)
    if found is None:
        raise BenchmarkError(f"{server.name} did not say with which configuration its engine runs")
    return found[1]


async def _cache(server: Server) -> dict[str, str]:
    connection = await Connection.opened(server.port)
    try:
        reply = await connection.ask(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
    finally:
        connection.close()
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            if sample.name == "vllm:cache_config_info":
                return sample.labels
    raise BenchmarkError(f"{server.name} does not say on /metrics how large its cache is")
