"""Ends that take a server of their own; the SIGTERM of every day is in the `server` fixture."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from bundle.manifest import Manifest
from tests.stand_ins.live_server import free_port, started, still_running

pytestmark = pytest.mark.slow


def test_ctrl_c_lets_a_stream_finish_and_leaves_nothing_behind(
    demo_bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    with started(demo_bundle, tmp_path) as server:
        server.wait_until_ready()
        family = server.family()
        body = {
            "model": manifest.base.name,
            "prompt": "Once upon a time",
            "max_tokens": 300,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        events = []
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=120) as answer:
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue  # at the blank line behind the fifth event a second signal would skip the wait
                events.append(json.loads(line.removeprefix("data: ")))
                if len(events) == 5:
                    os.killpg(server.process.pid, signal.SIGINT)  # what a terminal does: the whole group
        assert events[-1]["usage"]["completion_tokens"] == 300
        assert server.exit_code() == 0
        assert still_running(family) == []


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_the_engine_starts(demo_bundle: Path, tmp_path: Path, asked: signal.Signals) -> None:
    with started(demo_bundle, tmp_path) as server:
        server.wait_until_said("engine starting")
        server.wait_until_an_engine_runs()
        family = server.family()
        if asked == signal.SIGINT:
            os.killpg(server.process.pid, asked)
        else:
            server.process.send_signal(asked)
        assert server.exit_code() == 0
        assert still_running(family) == []
        assert "stopped before it was ready" in server.err.read_text()
        assert "Traceback" not in server.err.read_text()


def test_keys_and_a_port_for_metrics_on_a_real_server(demo_bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-from-the-file\n")
    metrics = f"http://127.0.0.1:{(port := free_port())}"
    config = tmp_path / "serve.yaml"
    config.write_text(f"api_key_file: {keys}\nmetrics_port: {port}\nverbose: true\n")
    variables = {"GRADIENTSPACE_API_KEY": "sk-from-the-variable", "GRADIENTSPACE_CONFIG": str(config)}
    with started(demo_bundle, tmp_path, **variables) as server:
        server.wait_until_said("ready after")
        url = f"{server.url}/v1/completions"
        asked = {"prompt": "Once", "max_tokens": 2}
        assert httpx.post(url, json=asked).status_code == 401
        assert httpx.post(url, json=asked, headers={"x-api-key": "sk-from"}).status_code == 401
        assert httpx.get(f"{server.url}/health/ready").status_code == 200
        for key in ("sk-from-the-file", "sk-from-the-variable"):
            bearer = {"authorization": f"Bearer {key}"}
            assert httpx.post(url, json=asked, headers=bearer, timeout=60).status_code == 200
            assert httpx.post(url, json=asked, headers={"x-api-key": key}, timeout=60).status_code == 200
            assert httpx.get(f"{server.url}/metrics", headers=bearer).status_code == 404
        assert (
            'gradientspace_rejected_total{reason="unauthorized"} 2.0' in httpx.get(f"{metrics}/metrics").text
        )
        for process in server.family():
            assert "sk-from" not in " ".join(process.cmdline())
        assert "sk-from" not in str(server.engine().environ())
    assert "sk-from" not in server.err.read_text() + server.out.read_text()
