"""The official OpenAI client for Node, unchanged, against the service: tests/served/node/client.mjs asks."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bundle.manifest import Manifest
from tests.stand_ins.live_server import LiveServer

pytestmark = pytest.mark.slow  # needs Node and a package registry

HERE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def asked(
    server: LiveServer,
    prompt_for: dict[str, str],
    no_blanks: dict[str, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("NOT TESTED: no node and npm here (apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("node")
    for source in HERE.iterdir():
        if source.is_file():
            shutil.copy(source, folder)
    installed = subprocess.run(
        ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if installed.returncode != 0:
        pytest.skip(f"NOT TESTED: npm ci failed, the registry may be out of reach: {installed.stderr[-300:]}")
    given = json.dumps({"url": server.url, "prompts": prompt_for, "no_blanks": no_blanks})
    done = subprocess.run(
        ["node", "client.mjs", given], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def pair(prompt_for: dict[str, str], manifest: Manifest) -> list[Any]:
    """The two experts that the script has to do with."""
    by_name = {expert.name: expert for expert in manifest.experts}
    return [by_name[name] for name in list(prompt_for)[:2]]


def test_chat_and_its_stream(asked: dict[str, Any], pair: list[Any]) -> None:
    assert asked["expert"] == pair[0].name
    assert asked["chat"]["model"] == pair[0].engine_name
    assert asked["speakers"] == [pair[0].engine_name]
    assert asked["streamed"] == asked["chat"]["choices"][0]["message"]["content"]
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert asked["streamUsage"][key] == asked["chat"]["usage"][key]


def test_several_answers_with_log_probabilities(asked: dict[str, Any], pair: list[Any]) -> None:
    several = asked["several"]
    assert several["model"] == pair[0].engine_name
    assert [choice["index"] for choice in several["choices"]] == [0, 1, 2]
    for choice in several["choices"]:
        assert all(token["logprob"] <= 0 for token in choice["logprobs"]["content"])


def test_structured_output_and_a_named_tool(asked: dict[str, Any], pair: list[Any]) -> None:
    assert asked["json"]["model"] == asked["call"]["model"] == pair[0].engine_name
    assert json.loads(asked["json"]["choices"][0]["message"]["content"])["verdict"] in ("yes", "no")
    (call,) = asked["call"]["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "judge"
    assert json.loads(call["function"]["arguments"])["verdict"] in ("yes", "no")


def test_a_prompt_list_across_experts(asked: dict[str, Any], pair: list[Any]) -> None:
    choices = asked["list"]["choices"]
    assert [choice["model"] for choice in choices] == [expert.engine_name for expert in pair]
    assert asked["list"]["usage"]["completion_tokens"] <= 8


def test_responses_and_errors(asked: dict[str, Any], pair: list[Any]) -> None:
    assert asked["answered"]["model"] == pair[1].engine_name
    assert asked["answered"]["status"] in ("completed", "incomplete")
    assert asked["refused"] == {
        "name": "NotFoundError",
        "status": 404,
        "param": "model",
        "type": "NotFoundError",
    }
