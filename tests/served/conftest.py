"""Fixtures of the tests that need a running engine: one server for all of them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from transformers import AutoTokenizer

from bundle.manifest import Manifest
from demo.rows import make_rows
from tests.stand_ins.live_server import LiveServer, started, still_running

PROMPTS = [
    "What is 17 times 24?",
    "Tom has 5 apples and buys 12 more, then gives away 3. How many apples does he have?",
    "Solve for x: 3x + 7 = 22",
    "What is the probability of rolling two sixes with fair dice?",
    "Find the derivative of x^3 - 5x",
    "Write a Python function that reverses a string",
    "Write a SQL query that selects all users older than 30",
    "Implement binary search in Java",
    "Create a JavaScript function that sorts an array of objects",
    "Write a short story about a brave little mouse",
    "Once upon a time there was a girl named Lily who loved flowers. Continue the story.",
    "Tell a bedtime story about a sleepy bear",
    "What was the percentage change in revenue between 2018 and 2019?",
    "What is the total amount of deferred tax assets in 2019?",
    "Summarize the following article in one sentence.",
    "Translate this sentence to French: the cat sleeps.",
]


ENGINE_FLAGS = ()


@pytest.fixture(scope="session")
def served_link(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server is started with: a link, so that a test can put another bundle there."""
    link = tmp_path_factory.mktemp("served") / "current"
    link.symlink_to(demo_bundle.resolve())
    return link


@pytest.fixture(scope="session")
def server(served_link: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with started(served_link, tmp_path_factory.mktemp("server"), *ENGINE_FLAGS) as live:
        live.wait_until_ready()
        yield live
        family = live.family()
        assert len(family) > 1, "the engine should run in a process of its own"
        live.process.send_signal(signal.SIGTERM)
        assert live.exit_code() == 0
        assert still_running(family) == []


@pytest.fixture(scope="session")
def http(server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=300) as client:
        yield client


@pytest.fixture(scope="session")
def openai(server: LiveServer) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300)


@pytest.fixture(scope="session")
def prompt_for(http: httpx.Client, manifest: Manifest) -> dict[str, str]:
    """A prompt that the router sends to each expert, by the expert's name."""
    of_the_demo = [
        f"{row['instruction']}\n{row['input']}".strip() for row in make_rows(20, seed=2, split="heldout")
    ]
    asked = [*PROMPTS, *of_the_demo, *(" ".join(expert.top_terms) for expert in manifest.experts)]
    routed = http.post("/v1/route", json={"input": asked}).json()["data"]
    found = {
        item["expert"]: text
        for text, item in zip(asked, routed, strict=True)
        if item["reason"] == "routed"  # some of the list is unlike anything in the demo
    }
    missing = set(manifest.label_order) - set(found)
    assert not missing, f"no prompt of the list is routed to {sorted(missing)}; add some to PROMPTS"
    return found


@pytest.fixture(scope="session")
def no_blanks(base: Path) -> dict[str, float]:
    """A `logit_bias` against blanks: a model this small fills whatever room a form leaves with them."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    return {str(token): -100 for token in range(len(tokenizer)) if tokenizer.decode([token]).isspace()}
