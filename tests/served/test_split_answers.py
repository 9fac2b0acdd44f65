"""A list of prompts for several experts, against each prompt asked alone of the expert by name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from bundle.manifest import Manifest

PATH = "/v1/completions"


@pytest.fixture(scope="module")
def prompts(manifest: Manifest, prompt_for: dict[str, str]) -> list[tuple[str, str]]:
    """(expert, prompt) pairs in an order in which no expert's stand together."""
    names = [*manifest.label_order, *reversed(manifest.label_order[:-1])]
    return [(name, prompt_for[name]) for name in names]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 0, "logprobs": 2},
        {"temperature": 0, "echo": True},
        {"temperature": 0, "echo": True, "logprobs": 1, "max_tokens": 0},
        {"seed": 11, "temperature": 1.2},
        {"seed": 11, "temperature": 1.2, "n": 3, "logprobs": 1},
        {"temperature": 0, "stop": ["e"]},
        {"temperature": 0, "return_token_ids": True},
        {"use_beam_search": True, "n": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["text", "token ids"])
def test_as_if_each_were_asked_alone(
    http: httpx.Client, prompts: list[tuple[str, str]], options: dict[str, Any], kind: str
) -> None:
    asked: list[Any] = [prompt for _, prompt in prompts]
    if kind == "token ids":
        asked = [http.post("/tokenize", json={"prompt": prompt}).json()["tokens"] for prompt in asked]
    request = {"max_tokens": 6} | options
    whole = http.post(PATH, json={"prompt": asked} | request)
    assert whole.status_code == 200, whole.text
    alone = [
        http.post(PATH, json={"model": name, "prompt": prompt} | request).json()
        for (name, _), prompt in zip(prompts, asked, strict=True)
    ]
    n = options.get("n", 1)
    expected = [
        choice | {"index": place * n + choice["index"], "model": answer["model"]}
        for place, answer in enumerate(alone)
        for choice in answer["choices"]
    ]
    assert rounded(whole.json()["choices"]) == rounded(expected)
    assert len({choice["model"] for choice in expected}) > 1
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert whole.json()["usage"][key] == sum(answer["usage"][key] for answer in alone)


def rounded(node: Any) -> Any:
    """Log-probabilities of prompts computed side by side differ in the last digits."""
    if isinstance(node, float):
        return round(node, 2)
    if isinstance(node, list):
        return [rounded(value) for value in node]
    return {key: rounded(value) for key, value in node.items()} if isinstance(node, dict) else node


@pytest.mark.parametrize("n", [1, 2])
def test_a_stream_says_what_the_whole_answer_says(
    http: httpx.Client, prompts: list[tuple[str, str]], n: int
) -> None:
    request = {"prompt": [prompt for _, prompt in prompts], "max_tokens": 6, "n": n, "seed": 3}
    whole = http.post(PATH, json=request).json()
    options = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    lines = http.post(PATH, json=request | options).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    *chunks, closing = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    texts = [""] * len(whole["choices"])
    reasons: list[Any] = [None] * len(texts)
    for chunk in chunks:
        assert chunk["usage"]["completion_tokens"] <= 6
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
            reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert reasons == [choice["finish_reason"] for choice in whole["choices"]]
    assert closing["choices"] == []
    assert closing["usage"]["total_tokens"] == whole["usage"]["total_tokens"]


@pytest.mark.parametrize("stream", [False, True])
def test_one_prompt_that_does_not_fit_fails_the_whole(
    http: httpx.Client, prompts: list[tuple[str, str]], stream: bool
) -> None:
    asked = [prompt for _, prompt in prompts]
    asked[1] += " and so on" * 2_000
    answer = http.post(PATH, json={"prompt": asked, "max_tokens": 2, "stream": stream})
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
