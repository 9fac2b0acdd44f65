"""The benchmark of the service: what it pairs, what it writes, and that it refuses to compare unlike with like."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.serving_client import Reply
from benchmarks.serving_equality import environment_that_matters
from benchmarks.serving_flags import command_line, differences, vllm_flags
from benchmarks.serving_load import TOKENS, Asked, Load
from benchmarks.serving_servers import BenchmarkError, Server, free_port, interrupted_afterwards
from benchmarks.serving_windows import (
    CONTENDERS,
    PROCESSES,
    STREAMS,
    SamePrompt,
    Window,
    figures,
    pair_ratios,
    routing_figures,
    there_and_back,
    turns_within,
)
from service.headers import ROUTER_MS

ROOT = Path(__file__).parents[2]
HEADLINES = {
    *("requests_per_s", "named_over_vllm", "routed_minus_named_p50_ms", "router_p50_ms"),
    *("streams_per_s", "by_clients"),
}


SAME = [
    SamePrompt(0.100, 0.106, 0.102, 5.0),
    SamePrompt(0.200, 0.207, 0.201, 5.0),
    SamePrompt(0.150, 0.152, 0.150, 1.5),
]


def window(contender: str, clients: int, latency: float) -> Window:
    latencies = (latency,) * 4
    cpu = dict.fromkeys(PROCESSES, 0.5)
    return Window(contender, clients, 4 * latency / clients, latencies, cpu)


def measured(slow: dict[str, float], counts: tuple[int, ...] = (1, 8)) -> list[Window]:
    """Two passes; in the second the machine takes twice as long for everything."""
    return [
        window(name, clients, machine * slow.get(name, 1.0) * clients)
        for clients in counts
        for machine in (1.0, 2.0)
        for name in (*CONTENDERS, *STREAMS)
    ]


def test_a_slower_machine_favours_nobody() -> None:
    assert there_and_back(("a", "b")) == ("a", "b", "b", "a")
    ratios = pair_ratios(measured({"named": 1.25}), "named", "vllm", 8)
    assert ratios == pytest.approx([0.8, 0.8])


def test_passes_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        pair_ratios(measured({})[:-1], "named_streams", "vllm", 8)


def test_a_turn_of_many_requests_gets_fewer_turns() -> None:
    assert turns_within(1.2, one_turn=0.1, passes=1) == 12
    assert turns_within(1.2, one_turn=0.1, passes=5) == 2
    assert turns_within(1.2, one_turn=9.0, passes=5) == 1


def test_routing_is_compared_prompt_by_prompt() -> None:
    found = routing_figures(SAME)
    assert found["routed_minus_named_p50_ms"] == pytest.approx(2.0)  # of the medians, 152 and 150
    assert found["beyond_router_ms"]["median"] == pytest.approx(1.0)  # of 1, 2 and 0.5
    assert found["pause_ms"]["median"] == pytest.approx(1.0)  # of 2, 1 and 0
    assert found["beyond_pause_ms"]["median"] == pytest.approx(0.5)  # of -1, 1 and 0.5
    assert found["beyond_pause_ms"]["low"] < 0.5 < found["beyond_pause_ms"]["high"]
    assert (found["router_p50_ms"], found["prompts"]) == (5.0, 3)
    assert routing_figures([SamePrompt(0.1, 0.106, None, 5.0)])["beyond_pause_ms"] is None


class Answering:
    """A connection that says how it was used."""

    def __init__(self) -> None:
        self.log: list[str] = []

    async def ask(self, request: bytes) -> Reply:
        body = json.loads(request.partition(b"\r\n\r\n")[2])
        self.log.append(f"{body['model']}: {body['messages'][0]['content']}")
        raw = json.dumps({"model": "expert-0@1", "usage": {"completion_tokens": TOKENS}}).encode()
        return Reply(200, {ROUTER_MS: "7"}, raw, {"auto": 0.3, "expert-0": 0.2}[body["model"]], 0.1)

    def close(self) -> None:
        self.log.append("closed")


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Answering]:
    found: list[Answering] = []

    async def opened(port: int) -> Answering:
        found.append(Answering())
        return found[-1]

    monkeypatch.setattr("benchmarks.serving_load.Connection", SimpleNamespace(opened=opened))
    return found


def load_of_four_prompts() -> Load:
    load = object.__new__(Load)
    load._asked = [Asked(f"prompt {number}", "expert-0", "expert-0@1") for number in range(4)]
    load._servers = {"service": SimpleNamespace(port=1)}  # type: ignore[dict-item]
    load._models = {"named": lambda one: [one.expert], "routed": lambda _: ["auto"]}
    load._base = "base"
    return load


async def test_each_prompt_is_asked_named_and_routed_by_the_same_client_in_turn(
    connections: list[Answering],
) -> None:
    asked = await load_of_four_prompts().same_prompts(clients=2, turns=2, first=3)
    named, routed = "expert-0: prompt", "auto: prompt"
    assert [connection.log for connection in connections] == [
        [f"{named} 3", f"{routed} 3", f"{routed} 0", f"{named} 0", "closed"],
        [f"{routed} 1", f"{named} 1", f"{named} 2", f"{routed} 2", "closed"],
    ]
    assert asked == [SamePrompt(0.2, 0.3, None, 7.0)] * 4


async def test_a_lone_client_also_asks_after_a_pause_as_long_as_routing_took(
    connections: list[Answering], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "benchmarks.serving_load.time.sleep", lambda seconds: connections[0].log.append(f"pause {seconds}")
    )
    asked = await load_of_four_prompts().same_prompts(clients=1, turns=3, first=0)
    named, routed, pause = "expert-0: prompt", "auto: prompt", "pause 0.007"
    assert connections[0].log == [
        *(f"{named} 0", f"{routed} 0", pause, f"{named} 0"),
        *(f"{routed} 1", f"{named} 1", pause, f"{named} 1"),
        *(f"{routed} 2", pause, f"{named} 2", f"{named} 2", "closed"),
    ]
    assert asked == [SamePrompt(0.2, 0.3, 0.2, 7.0)] * 3


def test_the_record() -> None:
    found = figures(measured({"named": 1.25, "base": 0.5, "named_streams": 2.0}), {1: SAME, 8: SAME})
    assert set(found) == HEADLINES
    assert {clients: set(rates) for clients, rates in found["requests_per_s"].items()} == {
        "1": set(CONTENDERS),
        "8": set(CONTENDERS),
    }
    assert found["named_over_vllm"] == pytest.approx(0.8)
    assert found["router_p50_ms"] == 5.0
    of_eight = found["by_clients"]["8"]
    assert of_eight["named_over_vllm_streams"]["median"] == pytest.approx(0.5)
    assert of_eight["named_over_base"]["median"] == pytest.approx(0.4)
    assert of_eight["busy_cores"]["vllm"]["engine"] == pytest.approx(1.0 / 12)
    assert json.loads(json.dumps(found)) == found


def test_the_lowest_ratio_is_the_headline() -> None:
    windows = measured({}, (1,)) + measured({"named": 1.25}, (32,)) + measured({}, (8,))
    found = figures(windows, dict.fromkeys((1, 8, 32), SAME))
    assert found["named_over_vllm"] == pytest.approx(0.8)
    assert found["routed_minus_named_p50_ms"] == found["by_clients"]["1"]["routed_minus_named_p50_ms"]


def test_whatever_differs_is_named() -> None:
    assert differences({"dtype": "float32", "rank": 8}, {"rank": 8, "dtype": "float32"}) == []
    assert differences({"dtype": "float32", "rank": 8}, {"dtype": "bfloat16", "seed": 0}) == [
        "dtype: the service has 'float32', vLLM's server 'bfloat16'",
        "rank: the service has 8, vLLM's server '(nothing)'",
        "seed: the service has '(nothing)', vLLM's server 0",
    ]


def test_variables_that_change_the_speed_are_compared() -> None:
    found = environment_that_matters(
        {"OMP_NUM_THREADS": "1", "LD_PRELOAD": "x", "VLLM_CPU_OMP": "y", "HOME": "/", "TORCHINDUCTOR_X": "z"}
    )
    assert set(found) == {"OMP_NUM_THREADS", "LD_PRELOAD", "VLLM_CPU_OMP", "TORCHINDUCTOR_X"}


def test_arguments_become_a_command_line_and_back() -> None:
    parser = ArgumentParser()
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--kept", default=3)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--progress", action=BooleanOptionalAction, default=True)
    parser.add_argument("-n", "--names", nargs="+")
    wanted = Namespace(dtype="float32", kept=3, eager=True, progress=False, names=["a", "b"])
    line = command_line(parser, wanted)
    assert line == ["--dtype", "float32", "--eager", "--no-progress", "--names", "a", "b"]
    assert parser.parse_args(line) == wanted


def test_vllm_gets_the_arguments_of_the_service(demo_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # so that it is as before afterwards
    line = vllm_flags(demo_bundle, ["--max-num-seqs", "77", "--no-enable-prefix-caching"])
    after = dict(pairwise(line))
    assert after["--max-num-seqs"] == "77"
    assert "--enable-lora" in line
    assert int(after["--max-loras"]) > 1


def test_a_server_is_gone_afterwards(tmp_path: Path) -> None:
    port = free_port()
    command = ["http.server", str(port), "--bind", "127.0.0.1"]
    server = Server("a server", command, port, dict(os.environ), tmp_path / "log")
    try:
        server.wait_until_ready("/", lambda line: None)
        assert server.api_process.is_running()
    finally:
        server.stop()
    assert not psutil.pid_exists(server.pid)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    server = Server("a server", ["no_such_module"], 1, dict(os.environ), tmp_path / "log")
    with pytest.raises(BenchmarkError, match=r"(?s)a server ended with 1 .*No module named no_such_module"):
        server.wait_until_ready("/", lambda line: None)


@pytest.mark.slow
def test_ctrl_c_ends_both_servers(demo_bundle: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serving", str(demo_bundle), "--quick"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if "starting vllm" in line:
                break
        family = psutil.Process(run.pid).children(recursive=True)
        assert len(family) >= 2
        run.send_signal(signal.SIGINT)
        assert run.wait(120) != 0
    _, alive = psutil.wait_procs(family, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_the_quick_benchmark(demo_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.serving", str(demo_bundle), "--quick", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "both servers run alike" in done.stderr
    record = json.loads(file.read_text())
    assert set(record) > HEADLINES
    assert set(record["requests_per_s"]) == {"1", "8", "32"}
    for rates in record["requests_per_s"].values():
        assert set(rates) == set(CONTENDERS)
        assert all(rate > 0 for rate in rates.values())
    assert record["named_over_vllm"] > 0
    assert record["router_p50_ms"] > 0
    assert set(record["first_byte"]["first_event_ms"]) == {"alone", "named", "routed", "classified"}
    assert record["machine"]["git_commit"]
    assert set(record["commands"]) == {"service", "vllm"}


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal; what a shell started in the background ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_while_a_server_is_being_started_comes_after_somebody_can_end_it() -> None:
    start = interrupted_afterwards()
    start.__enter__()
    signal.raise_signal(signal.SIGINT)  # nothing is raised here
    with pytest.raises(KeyboardInterrupt):
        start.__exit__(None, None, None)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
