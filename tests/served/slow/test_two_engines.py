"""More than one engine behind the one endpoint: whichever answers, each expert says what it says alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bundle.manifest import Manifest
from tests.stand_ins.http_answers import samples
from tests.stand_ins.live_server import ADMIN_KEY, LiveServer, started

pytestmark = pytest.mark.slow  # three processes that each load the base

BODY = {
    "messages": [{"role": "user", "content": "Tom has 14 coins. Mia takes 5 of them. Tell a story of it."}],
    "temperature": 0,
    "max_tokens": 16,
    "ignore_eos": True,
}
TIMES = 8


@pytest.fixture(scope="module", params=["data", "tensor"])
def parallel(
    request: pytest.FixtureRequest, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, LiveServer]]:
    folder = tmp_path_factory.mktemp(f"{request.param}-parallel")
    with started(demo_bundle, folder, "--", f"--{request.param}-parallel-size", "2") as server:
        server.wait_until_ready()
        yield request.param, server


@pytest.fixture(scope="module")
def alone(demo_bundle: Path, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each expert says where there is one engine."""
    with started(demo_bundle, tmp_path_factory.mktemp("alone")) as server:
        server.wait_until_ready()
        return said(server, [expert.name for expert in manifest.experts])


def said(server: LiveServer, names: list[str]) -> dict[str, str]:
    with httpx.Client(base_url=server.url, timeout=600) as http, ThreadPoolExecutor(TIMES) as pool:

        def ask(name: str) -> tuple[str, str]:
            answer = http.post("/v1/chat/completions", json=BODY | {"model": name})
            assert answer.status_code == 200, answer.text
            return name, answer.json()["choices"][0]["message"]["content"]

        answers = set(pool.map(ask, names * TIMES))
    assert len(answers) == len(names), "an expert said two things"
    return dict(answers)


def test_every_expert_says_what_it_says_alone(
    parallel: tuple[str, LiveServer], alone: dict[str, str], manifest: Manifest
) -> None:
    kind, server = parallel
    names = [expert.name for expert in manifest.experts]
    assert said(server, names) == alone
    with httpx.Client(base_url=server.url, timeout=600) as http:
        found = samples(http)
        answered = sum(
            value for (name, labels), value in found.items() if name == "gradientspace_requests_total"
        )
        assert answered >= TIMES * len(names)
        by_engine = {
            dict(labels)["engine"]: value
            for (name, labels), value in found.items()
            if name == "vllm:request_success_total" and ("finished_reason", "length") in labels
        }
        assert set(by_engine) == ({"0", "1"} if kind == "data" else {"0"})
        assert all(value > 0 for value in by_engine.values())
        admin = {"authorization": f"Bearer {ADMIN_KEY}"}
        assert http.post("/admin/reload", headers=admin).json()["changed"] is False
        assert http.get("/health/ready").status_code == 200
