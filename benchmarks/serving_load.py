"""What each contender is asked, and one window of it: same prompts, same experts, same number of tokens."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from benchmarks.serving_client import Connection, Reply, ask_in_turns, ask_once, request_bytes
from benchmarks.serving_servers import BenchmarkError, Server
from benchmarks.serving_windows import STREAMS, SamePrompt, Window
from bundle.manifest import Manifest
from service.headers import ROUTER_MS
from service.request.names import AUTO

PATH = "/v1/chat/completions"
_AT_ONCE = 16  # prompts in one request to the router, whose time is limited
_ASK_VLLM = ("vllm", "vllm_streams", "ensemble")
_ORDERS = (("named", "routed"), ("routed", "named"))
_ORDERS_ALONE = (  # the pause is as long as the routing was, so it comes after it
    ("named", "routed", "paused"),
    ("routed", "named", "paused"),
    ("routed", "paused", "named"),
)
TOKENS = 16  # few, so that what a request costs outside the engine shows


@dataclass(frozen=True)
class Asked:
    """A prompt and the expert that the router chooses for it, by its two names."""

    prompt: str
    expert: str
    engine_name: str


def body_of(prompt: str, model: str, **more: Any) -> dict[str, Any]:
    """Return a chat request whose answer has exactly `TOKENS` tokens."""
    message = {"role": "user", "content": prompt}
    return {
        "model": model,
        "messages": [message],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    } | more


async def routed_prompts(service: Server, manifest: Manifest, prompts: Sequence[str]) -> list[Asked]:
    """Ask the router once, so that the named contenders name the very experts that the routed one gets.

    Raises:
        BenchmarkError: it does not say.

    """
    engine_names = {expert.name: expert.engine_name for expert in manifest.experts}
    asked = []
    for start in range(0, len(prompts), _AT_ONCE):
        some = list(prompts[start : start + _AT_ONCE])
        reply = await ask_once(service.port, "/v1/route", {"input": some})
        found = json.loads(reply.body).get("data", []) if reply.status == 200 else []
        chances = [one["probabilities"] for one in found if one["probabilities"]]
        if len(chances) != len(some):
            raise BenchmarkError(f"/v1/route answered {reply.status}: {reply.body[:300]!r}")
        best = [max(one, key=one.__getitem__) for one in chances]
        asked += [Asked(text, name, engine_names[name]) for text, name in zip(some, best, strict=True)]
    return asked


class Load:
    """Both servers and what they are asked."""

    def __init__(self, service: Server, own: Server, manifest: Manifest, asked: Sequence[Asked]) -> None:
        """`asked` is gone through again and again."""
        self._servers = {"service": service, "vllm": own}
        self._asked = asked
        base = manifest.base.name
        everyone = [adapter.engine_name for adapter in manifest.adapters]
        self._models: dict[str, Callable[[Asked], list[str]]] = {
            "vllm": lambda one: [one.engine_name],
            "named": lambda one: [one.expert],
            "routed": lambda _: [AUTO],
            "base": lambda _: [base],
            "ensemble": lambda _: everyone,
        }
        self._base = base
        self.passes = {
            name: len(self._models[name.removesuffix("_streams")](asked[0]))
            for name in (*self._models, *STREAMS)
        }

    async def window(self, contender: str, clients: int, turns: int, first: int) -> Window:
        """Let `clients` ask `turns` prompts each, beginning with prompt number `first`.

        Raises:
            BenchmarkError: an answer is missing or is not what was asked for.

        """
        picked = [
            [self._asked[(first + client * turns + turn) % len(self._asked)] for turn in range(turns)]
            for client in range(clients)
        ]
        requests = [[self._requests(contender, one) for one in turn] for turn in picked]
        side = "vllm" if contender in _ASK_VLLM else "service"
        before, own_before = self._cpu(side), time.process_time()
        try:
            seconds, replies = await ask_in_turns(self._servers[side].port, requests)
        except (EOFError, ConnectionError) as error:
            raise BenchmarkError(f"{contender}: the server closed a connection ({error})") from error
        own_after = time.process_time()
        cpu = {name: spent - before[name] for name, spent in self._cpu(side).items()}
        cpu["client"] = own_after - own_before
        cpu["others"] -= sum(spent for name, spent in cpu.items() if name != "others")
        answered = [
            (one, turn)
            for own, turns_of_client in zip(picked, replies, strict=True)
            for one, turn in zip(own, turns_of_client, strict=True)
        ]
        for one, turn in answered:
            for reply in turn:
                self._refuse_wrong(contender, one, reply)
        return Window(
            contender,
            clients,
            seconds,
            tuple(max(reply.seconds for reply in turn) for _, turn in answered),
            cpu,
        )

    async def same_prompts(self, clients: int, turns: int, first: int) -> list[SamePrompt]:
        """Let `clients` ask `turns` prompts each, each named and routed, alone after a pause too, in orders by turns.

        All meet the same neighbours and the same batches, so what they differ in is routing.

        Raises:
            BenchmarkError: an answer is missing or is not what was asked for.

        """
        orders = _ORDERS_ALONE if clients == 1 else _ORDERS
        port = self._servers["service"].port
        connections = [await Connection.opened(port) for _ in range(clients)]

        async def client(number: int) -> list[SamePrompt]:
            found = []
            for turn in range(turns):
                one = self._asked[(first + number * turns + turn) % len(self._asked)]
                order = orders[(number + turn) % len(orders)]
                found.append(await self._same_prompt(connections[number], one, order))
            return found

        try:
            return [one for own in await asyncio.gather(*map(client, range(clients))) for one in own]
        except (EOFError, ConnectionError) as error:
            raise BenchmarkError(f"named and routed: the server closed a connection ({error})") from error
        finally:
            for connection in connections:
                connection.close()

    async def _same_prompt(self, connection: Connection, one: Asked, order: Sequence[str]) -> SamePrompt:
        seconds: dict[str, float] = {}
        router_ms = 0.0
        for name in order:
            if name == "paused":
                # Not asyncio's sleep: it rounds up to a millisecond, three times what most prompts take to route.
                await asyncio.to_thread(time.sleep, router_ms / 1000)
            contender = "routed" if name == "routed" else "named"
            reply = await connection.ask(*self._requests(contender, one))
            self._refuse_wrong(contender, one, reply)
            seconds[name] = reply.seconds
            if name == "routed":
                router_ms = float(reply.headers[ROUTER_MS])
        return SamePrompt(seconds["named"], seconds["routed"], seconds.get("paused"), router_ms)

    def _requests(self, contender: str, one: Asked) -> list[bytes]:
        streams = contender in STREAMS
        models = self._models[contender.removesuffix("_streams")](one)
        return [
            request_bytes(PATH, body_of(one.prompt, model, **({"stream": True} if streams else {})))
            for model in models
        ]

    def _refuse_wrong(self, contender: str, one: Asked, reply: Reply) -> None:
        if reply.status != 200:
            raise BenchmarkError(f"{contender}: status {reply.status}, {reply.body[:300]!r}")
        if contender in STREAMS:
            if not reply.body.rstrip().endswith(b"data: [DONE]"):
                raise BenchmarkError(f"{contender}: a stream ended early: {reply.body[-300:]!r}")
            return
        answer = json.loads(reply.body)
        tokens = answer["usage"]["completion_tokens"]
        if tokens != TOKENS:
            raise BenchmarkError(f"{contender}: {tokens} tokens instead of {TOKENS}")
        expected = self._base if contender == "base" else one.engine_name
        if contender != "ensemble" and answer["model"] != expected:
            raise BenchmarkError(f"{contender}: {answer['model']} answered, not {expected}")

    def _cpu(self, side: str) -> dict[str, float]:
        """Return CPU seconds since the beginning of time; `others` is the whole machine."""
        loaded = self._servers[side]
        (idle,) = (server for name, server in self._servers.items() if name != side)
        whole = psutil.cpu_times()
        return {
            "engine": _cpu_seconds(loaded.engine_processes),
            "api": _cpu_seconds([loaded.api_process]),
            "idle_server": _cpu_seconds([idle.api_process, *idle.engine_processes]),
            "others": sum(whole) - whole.idle - whole.iowait - whole.guest - whole.guest_nice,
        }


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(times.user + times.system for times in (process.cpu_times() for process in processes))
