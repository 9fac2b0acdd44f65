"""The playground in a real browser, against the real service."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bundle.manifest import Manifest
from service import headers
from tests.stand_ins.chromium import WAIT_SECONDS, Page, browsing
from tests.stand_ins.live_server import LiveServer

MAX_TOKENS = 48
SETTLED = "document.querySelector('#stop').hidden && document.querySelectorAll('.answer').length"
HOSTILE = "<img src=x onerror='window.ran=1'><script>window.ran=1</script><b>bold</b>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.fixture
def page(browser: Page, server: LiveServer) -> Page:
    browser.look_like(1280, 860)
    return opened(browser, server)


def opened(page: Page, server: LiveServer) -> Page:
    page.forget()
    page.open(f"{server.url}/")
    page.wait_for("document.querySelectorAll('#experts li').length")
    page.fill("#max-tokens", str(MAX_TOKENS))
    return page


def ask(page: Page, prompt: str) -> None:
    page.click("#prompt")
    page.type(prompt)
    page.press("Enter")


def answers(page: Page) -> list[dict[str, Any]]:
    """What stands in the columns of the last turn, once everybody is done."""
    page.wait_for(SETTLED)
    found = page.evaluate(
        "Array.from(document.querySelectorAll('.turn:last-child .answer'), node => ({...node.dataset,"
        " badge: node.querySelector('.badge').textContent, why: node.querySelector('.why').textContent,"
        " colour: getComputedStyle(node.querySelector('.badge'), '::before').backgroundColor,"
        " text: node.querySelector('.text').textContent, figures: node.querySelector('.figures').textContent,"
        " problem: node.querySelector('.problem').textContent}))"
    )
    return list(found)


def bars(page: Page) -> list[dict[str, Any]]:
    page.wait_for("document.querySelector('.turn:last-child .bars')")
    found = page.evaluate(
        "Array.from(document.querySelectorAll('.turn:last-child .bar-row'), node => ({name: node.dataset.name,"
        " probability: Number(node.dataset.probability), chosen: node.classList.contains('chosen'),"
        " colour: getComputedStyle(node.querySelector('i')).backgroundColor,"
        " full: node.querySelector('i').getBoundingClientRect().width"
        " / node.querySelector('.bar').getBoundingClientRect().width}))"
    )
    return list(found)


def served(http: httpx.Client, model: str, prompt: str, **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": prompt}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS} | more
    return http.post("/v1/chat/completions", json=body)


def said(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def test_a_prompt_streams_an_answer_of_the_expert_that_the_router_chose(
    page: Page, http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    page.evaluate(
        "window.seen = new Set(); new MutationObserver(() => document.querySelectorAll('.answer .text')"
        ".forEach(node => seen.add(node.textContent))).observe(document.body,"
        " {subtree: true, childList: true, characterData: true})"
    )
    for name in manifest.label_order:
        prompt = prompt_for[name]
        expected = served(http, "auto", prompt)
        page.evaluate("seen.clear()")
        ask(page, prompt)
        (answer,) = answers(page)
        assert answer["badge"] == expected.headers[headers.EXPERT] == name
        assert answer["text"] == said(expected)
        assert page.evaluate("seen.size") > 2, "it came at once, not as a stream"
        assert answer["why"].startswith("routed, ")
        assert "first token" in answer["figures"]
        tokens = expected.json()["usage"]["completion_tokens"]
        assert f"{tokens} tokens" in answer["figures"]

        shown = bars(page)
        assert [bar["name"] for bar in shown] == list(manifest.label_order)
        assert sum(bar["probability"] for bar in shown) == pytest.approx(1, abs=1e-4)
        assert [bar["full"] for bar in shown] == pytest.approx(
            [bar["probability"] for bar in shown], abs=0.01
        )
        (chosen,) = [bar for bar in shown if bar["chosen"]]
        assert chosen["name"] == name
        assert chosen["probability"] == max(bar["probability"] for bar in shown)
        assert chosen["colour"] == answer["colour"], "bar and badge of one expert differ in colour"
        assert len({bar["colour"] for bar in shown}) == len(shown)
    assert page.problems == []


@pytest.mark.slow  # the first test shows that page and service talk
def test_another_expert_and_the_base_side_by_side(
    page: Page, http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    first, last = manifest.label_order[0], manifest.label_order[-1]
    prompt = prompt_for[first]
    page.fill("#second", last)
    ask(page, prompt)
    routed, forced = answers(page)
    assert (routed["badge"], forced["badge"]) == (first, last)
    assert forced["why"] == "asked by name"
    assert (routed["text"], forced["text"]) == (
        said(served(http, "auto", prompt)),
        said(served(http, last, prompt)),
    )
    assert routed["text"] != forced["text"]

    page.click(f".bar-row[data-name='{first}']")
    again = answers(page)
    assert [answer["badge"] for answer in again] == [first, first]
    assert again[0]["text"] == again[1]["text"]

    page.click(".router .link")
    assert answers(page)[1]["badge"] == manifest.base.name

    page.fill("#first", manifest.base.name)
    page.fill("#second", "")
    ask(page, prompt)
    (base,) = answers(page)
    assert (base["badge"], base["text"]) == (
        manifest.base.name,
        said(served(http, manifest.base.name, prompt)),
    )


@pytest.mark.slow  # the first test shows that page and service talk
def test_an_error_is_shown_as_the_sentence_of_its_body(
    page: Page, http: httpx.Client, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    prompt = prompt_for[manifest.label_order[0]]
    page.fill("#max-tokens", "10000000")
    ask(page, prompt)
    (answer,) = answers(page)
    refused = served(http, "auto", prompt, max_tokens=10_000_000, stream=True)
    assert answer["state"] == "failed"
    assert answer["problem"] == refused.json()["error"]["message"]
    page.fill("#max-tokens", "4")
    ask(page, prompt)
    assert answers(page)[0]["state"] == "done"


@pytest.mark.slow  # the first test shows that page and service talk
@pytest.mark.parametrize("by", ["button", "key"])
def test_stop_ends_the_answer_here_and_in_the_engine(
    by: str, page: Page, http: httpx.Client, manifest: Manifest
) -> None:
    tokens = 400
    page.change("*/v1/chat/completions", ignore_eos=True, min_tokens=tokens, max_tokens=tokens)
    press = (
        "stop.click()" if by == "button" else "dispatchEvent(new KeyboardEvent('keydown', {key: 'Escape'}))"
    )
    page.evaluate(
        "new MutationObserver(() => { if (document.querySelector('.answer .text')?.textContent)"
        f" document.{press.replace('stop.', 'querySelector(`#stop`).')} }})"
        ".observe(document.body, {subtree: true, childList: true, characterData: true})"
    )
    page.fill("#first", manifest.base.name)
    before = generated(http)
    ask(page, "Tell me something long.")
    (answer,) = answers(page)
    assert answer["state"] == "stopped"
    assert answer["figures"].endswith("stopped")
    assert answer["text"]
    deadline = time.monotonic() + WAIT_SECONDS
    while value(http, "gradientspace_in_flight") + value(http, "vllm:num_requests_running"):
        assert time.monotonic() < deadline, "the engine goes on"
        time.sleep(0.1)
    assert generated(http) - before < tokens


def value(http: httpx.Client, name: str) -> float:
    families = text_string_to_metric_families(http.get("/metrics").text)
    return sum(sample.value for family in families for sample in family.samples if sample.name == name)


def generated(http: httpx.Client) -> float:
    return value(http, "vllm:generation_tokens_total")


@pytest.mark.slow  # the first test shows that page and service talk
def test_earlier_turns_are_sent_only_if_asked_for(
    page: Page, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    one, two = prompt_for[manifest.label_order[0]], prompt_for[manifest.label_order[-1]]

    def last_sent() -> list[dict[str, str]]:
        posts = [sent for sent in page.sent if sent.url.endswith("/v1/chat/completions")]
        assert posts[-1].body is not None
        return list(posts[-1].body["messages"])

    ask(page, one)
    (first,) = answers(page)
    ask(page, two)
    answers(page)
    assert last_sent() == [{"role": "user", "content": two}]
    page.click("#remember")
    ask(page, one)
    answers(page)
    assert [message["role"] for message in last_sent()] == ["user", "assistant"] * 2 + ["user"]
    assert last_sent()[0]["content"] == last_sent()[-1]["content"] == one
    assert last_sent()[1]["content"] == first["text"]


@pytest.mark.slow  # the first test shows that page and service talk
def test_nothing_from_a_model_or_a_bundle_becomes_markup(page: Page, server: LiveServer) -> None:
    chunk = {"choices": [{"delta": {"content": HOSTILE}, "finish_reason": "stop"}]}
    expert = {"name": HOSTILE, "model": HOSTILE, "rows": 1, "share": 1, "top_terms": [HOSTILE]}
    decision = {"expert": HOSTILE, "reason": "routed", "probabilities": {HOSTILE: 1}}
    page.forget()
    page.answer(
        "*/v1/experts", 200, json.dumps({"bundle": HOSTILE, "base": HOSTILE, "data": [expert]}).encode()
    )
    page.answer("*/v1/route", 200, json.dumps({"data": [decision]}).encode())
    stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    page.answer("*/v1/chat/completions", 200, stream, "text/event-stream")
    page.open(f"{server.url}/")
    page.wait_for("document.querySelectorAll('#experts li').length")
    ask(page, HOSTILE)
    assert answers(page)[0]["text"] == HOSTILE
    assert bars(page)[0]["name"] == HOSTILE
    error = {"error": {"message": HOSTILE, "type": "x", "param": None, "code": 400}}
    page.answer("*/v1/chat/completions", 400, json.dumps(error).encode())
    ask(page, HOSTILE)
    assert answers(page)[0]["problem"] == HOSTILE
    assert page.text().count(HOSTILE) >= 6
    assert page.evaluate("document.querySelectorAll('b, main img, #side img, body script').length") == 0
    assert page.evaluate("window.ran") is None


@pytest.mark.slow  # the first test shows that page and service talk
def test_it_asks_nobody_but_its_own_service_and_could_not(
    page: Page, server: LiveServer, prompt_for: dict[str, str]
) -> None:
    ask(page, next(iter(prompt_for.values())))
    answers(page)
    assert {sent.url.removeprefix(server.url) for sent in page.sent} >= {
        "/",
        "/playground/page.js",
        "/v1/route",
    }
    assert [sent.url for sent in page.sent if not sent.url.startswith(f"{server.url}/")] == []
    assert page.problems == []
    assert page.evaluate("fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'refused')") == "refused"
    page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.ran = 1'}))"
    )
    assert page.evaluate("window.ran") is None
    page.wait_for_problem("connect-src")
    page.wait_for_problem("script-src")


def error_of(status: int, message: str) -> tuple[int, bytes]:
    return status, json.dumps(
        {"error": {"message": message, "type": "x", "param": None, "code": status}}
    ).encode()


@pytest.mark.slow  # the first test shows that page and service talk
def test_what_is_missing_is_said(page: Page, server: LiveServer) -> None:
    page.forget()
    page.answer("*/health/ready", *error_of(503, "The engine is starting"))
    page.answer("*/v1/experts", *error_of(401, "This service needs a key"))
    page.answer("*/v1/route", *error_of(429, "Too many requests"))
    page.open(f"{server.url}/")
    page.wait_for("document.querySelector('#ready').textContent === 'Not ready: The engine is starting'")
    page.wait_for("document.querySelector('#experts-note').textContent.includes('This service needs a key')")
    ask(page, "Hello")
    assert answers(page)[0]["state"] == "done", "the answer does not wait for experts and probabilities"
    page.wait_for("document.querySelector('.router').textContent === 'No probabilities: Too many requests'")

    decision = {"expert": "fallback", "reason": "router_error", "probabilities": {}}
    page.answer("*/v1/route", 200, json.dumps({"data": [decision]}).encode())
    page.answer("*/v1/experts", 200, json.dumps({"bundle": "b", "base": "tiny", "data": []}).encode())
    page.fill("#key", "secret")
    page.wait_for("document.querySelector('#experts-note').textContent === 'This bundle lists no experts.'")
    ask(page, "Hello")
    answers(page)
    page.wait_for(
        "document.querySelector('.turn:last-child .router').textContent.startsWith('The router failed')"
    )
    keys = {sent.headers.get("authorization") for sent in page.sent if sent.url.endswith("/v1/experts")}
    assert keys == {None, "Bearer secret"}
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]

    page.answer("*/v1/chat/completions", 200, b'data: {"choices": []}\n\n', "text/event-stream")
    ask(page, "Hello")
    assert answers(page)[0]["problem"].startswith("The answer broke off")


@pytest.mark.slow  # the first test shows that page and service talk
def test_at_phone_width_and_in_the_dark(
    browser: Page, server: LiveServer, prompt_for: dict[str, str]
) -> None:
    papers = set()
    for dark in (False, True):
        browser.look_like(390, 844, dark=dark)
        page = opened(browser, server)
        page.fill("#second", "auto")
        page.fill("#max-tokens", "4")
        ask(page, next(iter(prompt_for.values())) + " w" + "w" * 300)
        answers(page)
        page.evaluate("document.querySelector('#side').open = true")
        assert page.evaluate("innerWidth") == 390
        assert page.evaluate("document.documentElement.scrollWidth") == 390, "the page scrolls sideways"
        papers.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == {"rgb(255, 255, 255)", "rgb(15, 19, 24)"}


@pytest.mark.slow  # the first test shows that page and service talk
def test_everything_has_a_name_and_is_reached_by_the_keyboard(page: Page, prompt_for: dict[str, str]) -> None:
    ask(page, next(iter(prompt_for.values())))
    answers(page)
    bars(page)
    unnamed = page.evaluate(
        "Array.from(document.querySelectorAll('input, select, textarea, button')).filter(node =>"
        " !(node.labels?.length || node.ariaLabel || node.textContent.trim())).map(node => node.outerHTML)"
    )
    assert unnamed == []
    page.evaluate("document.activeElement.blur(); document.querySelector('.skip').focus()")
    reached = set()
    for _ in range(40):
        page.press("Tab")
        reached.add(
            page.evaluate("document.activeElement.id || document.activeElement.className.split(' ')[0]")
        )
    assert reached >= {
        "temperature",
        "max-tokens",
        "key",
        "remember",
        "bar-row",
        "link",
        "prompt",
        "first",
        "second",
        "go",
    }


@pytest.mark.slow
def test_the_picture_in_the_docs(browser: Page, server: LiveServer) -> None:
    """GRADIENTSPACE_TEST_PICTURE names the file to write, for docs/playground.png."""
    given = os.environ.get("GRADIENTSPACE_TEST_PICTURE")
    if not given:
        pytest.skip("NOT TESTED: GRADIENTSPACE_TEST_PICTURE names no file to write the picture to")
    browser.look_like(1280, 960)
    page = opened(browser, server)
    page.fill("#max-tokens", "256")
    tale = "Tom has 14 coins. Mia takes 5 of them."
    for task, other in ("Show this change as a function of coins", 1), ("Turn this into a bedtime story", 2):
        page.fill("#second", f"expert-{other}")
        ask(page, f"{tale} {task}.")
        answers(page)
        bars(page)
    page.picture(Path(given))
    assert Path(given).stat().st_size < 300_000
