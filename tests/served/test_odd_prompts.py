"""Prompts that nobody trained on: each gets a clear decision or a clear error, and the service goes on."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from bundle.manifest import Manifest
from service import headers

IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/nothing.png"}}
MEGABYTE = "Count the apples in the basket. " * 32_000
ROUTED = {
    "empty": "",
    "blank": " \n\t ",
    "control characters": "".join(map(chr, range(32))) + "\x7f What is 2 + 3?",
    "another language": "Écris une histoire : 昔々あるところに、小さな鼠がいました。 Жила-была мышь 🐭",
    "right to left": "\u202eعندي ثلاث تفاحات، كم تبقى؟\u202c",
    "one long word": "a" * 20_000,
    "a megabyte": MEGABYTE,
}


def chat(http: httpx.Client, content: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1}
    return http.post("/v1/chat/completions", json=body)


def assert_routed(reason: str, expert: str, manifest: Manifest) -> None:
    """The router looked at it: an expert answers, or it is unlike anything in training."""
    if reason == "unfamiliar":
        assert expert == manifest.fallback.name
    else:
        assert reason == "routed"
        assert expert in manifest.label_order


def test_another_language_is_unlike_the_demo(http: httpx.Client, manifest: Manifest) -> None:
    answer = chat(http, "Какой город является столицей Канады?")
    assert answer.headers[headers.REASON] == "unfamiliar"
    assert answer.headers[headers.EXPERT] == manifest.fallback.name


@pytest.mark.parametrize("name", ROUTED)
def test_any_text_is_routed(name: str, http: httpx.Client, manifest: Manifest) -> None:
    answer = http.post("/v1/route", json={"input": ROUTED[name]})
    assert answer.status_code == 200, answer.text
    (decision,) = answer.json()["data"]
    assert_routed(decision["reason"], decision["expert"], manifest)
    assert sum(decision["probabilities"].values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "name", ["empty", "blank", "control characters", "another language", "right to left"]
)
def test_a_short_odd_prompt_is_answered(name: str, http: httpx.Client, manifest: Manifest) -> None:
    answer = chat(http, ROUTED[name])
    assert answer.status_code == 200, answer.text
    assert_routed(answer.headers[headers.REASON], answer.headers[headers.EXPERT], manifest)


def test_an_empty_raw_prompt_is_an_error_that_says_so(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json={"prompt": "", "max_tokens": 1})
    assert answer.status_code == 400
    assert "empty" in answer.json()["error"]["message"]
    assert answer.headers[headers.REASON] in ("routed", "unfamiliar")


@pytest.mark.parametrize("content", [[IMAGE], [IMAGE, IMAGE], [{"type": "text", "text": "this?"}, IMAGE]])
def test_an_image_is_refused_by_its_place(content: list[Any], http: httpx.Client) -> None:
    answer = chat(http, content)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "text only" in error["message"]
    assert error["param"] == f"messages.0.content.{content.index(IMAGE)}"


def test_a_dry_run_of_images_alone_is_routed_as_no_text(http: httpx.Client) -> None:
    images = http.post("/v1/route", json={"messages": [{"role": "user", "content": [IMAGE]}]}).json()
    empty = http.post("/v1/route", json={"input": ""}).json()
    assert images["data"][0]["probabilities"] == empty["data"][0]["probabilities"]


def test_a_megabyte_is_refused_with_the_limit(http: httpx.Client) -> None:
    raw = http.post("/v1/completions", json={"prompt": MEGABYTE, "max_tokens": 1})
    for answer, field in ((raw, "prompt"), (chat(http, MEGABYTE), "messages")):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == field
        assert "limit" in error["message"]


@pytest.mark.parametrize("body", [b'{"input": "half \\ud83d a smile"}', b'{"prompt": "\\ud800"}'])
def test_half_a_surrogate_pair_is_no_text(body: bytes, http: httpx.Client) -> None:
    path = "/v1/route" if b"input" in body else "/v1/completions"
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "surrogate" in answer.json()["error"]["message"]


def test_a_repeated_prompt_is_remembered_and_decided_alike(http: httpx.Client) -> None:
    text = "Tell a story about a heron that nobody has told before."

    def hits() -> float:
        name = 'gradientspace_router_answers_total{by="memory"}'
        (line,) = (line for line in http.get("/metrics").text.splitlines() if line.startswith(name))
        return float(line.split()[-1])

    first = http.post("/v1/route", json={"input": text}).json()["data"][0]
    before = hits()
    again = http.post("/v1/completions", json={"prompt": text, "max_tokens": 1})
    assert again.headers[headers.EXPERT] == first["expert"]
    assert hits() == before + 1
