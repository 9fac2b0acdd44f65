"""The same request means the same on every door: prompts, nulls, numbers in quotes, limits, and what is too long."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from tests.stand_ins.http_answers import samples

CHAT, RAW = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
TURNS = [{"role": "user", "content": "Tom has 3 coins."}, {"role": "assistant", "content": "Yes."}]
LAST = {"role": "user", "content": "How many?"}
SYSTEM = "Be brief."
HELLO = [{"role": "user", "content": "Hello"}]


def prompt_of(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """How many tokens the engine read, and (at temperature 0) what it made of them."""
    answer = http.post(path, json=body | {"model": "expert-1", "temperature": 0})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    usage = said["usage"]
    text = (
        said["choices"][0]["message"]["content"]
        if path == CHAT
        else "".join(part["text"] for item in said.get("output", [said]) for part in item["content"])
    )
    return usage.get("prompt_tokens", usage.get("input_tokens")), text


@pytest.mark.parametrize(
    ("system", "turns"), [(None, []), (SYSTEM, []), (None, TURNS), (SYSTEM, TURNS)], ids=str
)
def test_a_conversation_is_the_same_prompt_on_every_door(
    http: httpx.Client, system: str | None, turns: list[dict[str, str]]
) -> None:
    said = [*turns, LAST]
    chat = [{"role": "system", "content": system}, *said] if system else said
    instructions = {"instructions": system} if system else {}
    tokenized = http.post("/tokenize", json={"messages": chat}).json()
    played_back = [
        turn | {"content": [{"type": "output_text", "text": turn["content"]}]}
        if turn["role"] == "assistant"
        else turn
        for turn in said
    ]
    answers = {
        prompt_of(http, CHAT, {"messages": chat, "max_tokens": 8}),
        prompt_of(http, RESPONSES, instructions | {"input": said, "max_output_tokens": 8}),
        prompt_of(http, RESPONSES, instructions | {"input": played_back, "max_output_tokens": 8}),
        prompt_of(http, RESPONSES, {"input": chat, "max_output_tokens": 8}),
        prompt_of(
            http, MESSAGES, {"messages": said, "max_tokens": 8} | ({"system": system} if system else {})
        ),
    }
    assert len(answers) == 1
    assert next(iter(answers))[0] == tokenized["count"]
    assert tokenized["tokens"].count(tokenized["tokens"][0]) == 1, "one token begins a prompt"
    counted = http.post(
        f"{MESSAGES}/count_tokens", json={"messages": said} | ({"system": system} if system else {})
    )
    assert counted.json()["input_tokens"] == tokenized["count"]


@pytest.mark.parametrize(
    "items",
    [
        [{"role": "assistant", "content": [{"type": "output_text", "text": "b"}]}],
        [
            {
                "role": "assistant",
                "content": [*({"type": "output_text", "text": said} for said in "ab")],
            }
        ],
        [
            {
                "role": "assistant",
                "id": None,
                "status": None,
                "content": [{"type": "refusal", "refusal": "no"}],
            }
        ],
        [{"type": "reasoning", "encrypted_content": None}, {"role": "assistant", "content": "b"}],
        [
            {"type": "function_call", "id": None, "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
        ],
    ],
    ids=str,
)
def test_what_clients_play_back_is_taken(http: httpx.Client, items: list[dict[str, Any]]) -> None:
    body = {"input": [HELLO[0], *items, LAST], "max_output_tokens": 1}
    answer = http.post(RESPONSES, json=body)
    assert answer.status_code == 200, answer.text


BODIES = {
    CHAT: {"messages": HELLO, "max_tokens": 1},
    RAW: {"prompt": "Hello", "max_tokens": 1},
    RESPONSES: {"input": "Hello", "max_output_tokens": 1},
    MESSAGES: {"messages": HELLO, "max_tokens": 1},
    f"{MESSAGES}/count_tokens": {"messages": HELLO},
    "/tokenize": {"messages": HELLO},
}


@pytest.mark.parametrize("path", BODIES)
def test_null_means_absent_in_every_field(http: httpx.Client, path: str) -> None:
    document = http.get("/openapi.json").json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names = [one["$ref"].rpartition("/")[2] for one in schema.get("anyOf", [schema])]
    fields = {field for name in names for field in document["components"]["schemas"][name]["properties"]}
    assert len(fields) > 5
    required = BODIES[path]
    nulls = dict.fromkeys(fields - set(required))
    answer = http.post(path, json=nulls | required)
    assert answer.status_code == 200, answer.text


def test_empty_tools_and_suffix_ask_for_nothing(http: httpx.Client) -> None:
    for path in (CHAT, RESPONSES, MESSAGES):
        choice = {"type": "auto"} if path == MESSAGES else "auto"
        for more in ({"tools": []}, {"tools": [], "tool_choice": choice}):
            assert http.post(path, json=BODIES[path] | more).status_code == 200
    assert http.post(RAW, json=BODIES[RAW] | {"suffix": ""}).status_code == 200


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "n": "130"}, "n"),
        ({"prompt": ["a", "b"], "n": "100"}, "prompt"),
        ({"prompt": "a", "max_tokens": "3000000"}, "max_tokens"),
        ({"prompt": [[str(token) for token in range(3000)]]}, "prompt"),
        ({"prompt": "a", "n": "many"}, "n"),
        ({"prompt": "a", "n": 2.5}, "n"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_limits_look_at_what_the_engine_reads(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    answer = http.post(RAW, json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


def test_a_stream_that_is_none(http: httpx.Client, prompt_for: dict[str, str]) -> None:
    for prompt in ("a", list(prompt_for.values())[:2]):  # of one expert and of two
        answer = http.post(RAW, json={"prompt": prompt, "stream": "false", "max_tokens": "1"})
        assert answer.status_code == 200
        assert "choices" in answer.json()


def test_what_the_template_drops_is_not_counted(http: httpx.Client) -> None:
    long = "word " * 400  # more than the context's tokens, if it were read three times
    messages = [
        HELLO[0] | {"name": long},
        {"role": "assistant", "content": "Yes.", "reasoning_content": long},
        LAST,
    ]
    body = {"messages": messages, "metadata": {"a": long}, "unknown": long, "max_tokens": 1}
    assert http.post(CHAT, json=body).status_code == 200
    thinking = [{"type": "thinking", "thinking": long, "signature": long}, {"type": "text", "text": "Yes."}]
    said = [HELLO[0], {"role": "assistant", "content": thinking}, LAST]
    assert http.post(MESSAGES, json={"messages": said, "max_tokens": 1}).status_code == 200


def too_long_on(http: httpx.Client, text: str, **more: Any) -> list[dict[str, Any]]:
    """The errors of all doors for a prompt that is too long."""
    turn = [{"role": "user", "content": text}]
    errors = []
    for path, body in (
        (RAW, {"prompt": text}),
        (CHAT, {"messages": turn}),
        (RESPONSES, {"input": text}),
        (MESSAGES, {"messages": turn, "max_tokens": 4}),
    ):
        answer = http.post(path, json=body | more)
        assert answer.status_code == 400, (path, answer.text[:300])
        error = answer.json()["error"]
        assert error["code"] == "context_length_exceeded", (path, error)
        assert error["param"] == {RAW: "prompt", RESPONSES: "input"}.get(path, "messages")
        errors.append(error)
    return errors


def context_of(http: httpx.Client) -> int:
    return int(http.get("/v1/models").json()["data"][0]["max_model_len"])


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_too_long_a_prompt_is_said_with_both_counts_also_at_the_boundary(
    http: httpx.Client, stream: bool
) -> None:
    context = context_of(http)

    def of_length(tokens: int) -> str:
        text = " a" * (tokens - 16)
        while (
            http.post("/tokenize", json={"messages": [{"role": "user", "content": text}]}).json()["count"]
            < tokens
        ):
            text += " a"
        return text

    exact = of_length(context)
    turn = [{"role": "user", "content": exact}]
    for path, body in (
        (CHAT, {"messages": turn}),
        (RESPONSES, {"input": exact}),
        (MESSAGES, {"messages": turn}),
    ):
        answer = http.post(
            path, json=body | ({"max_tokens": 4} if path == MESSAGES else {}) | {"stream": stream}
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
        assert f"prompt is too long: {context} tokens > {context - 1} maximum" in error["message"]
    for error in too_long_on(http, of_length(context + 40), stream=stream):
        assert f"This model's maximum context length is {context} tokens" in error["message"]
        assert f"> {context - 1} maximum" in error["message"]
    fits = of_length(context - 1)
    assert http.post(CHAT, json={"messages": [{"role": "user", "content": fits}]}).status_code == 200


def test_what_only_counts_has_no_limit(http: httpx.Client) -> None:
    text = "a b " * 3000
    count = http.post("/tokenize", json={"prompt": text}).json()["count"]
    assert count > context_of(http)
    turn = [{"role": "user", "content": text}]
    assert http.post("/tokenize", json={"messages": turn, "max_tokens": 10**9}).json()["count"] > count
    assert http.post(f"{MESSAGES}/count_tokens", json={"messages": turn}).json()["input_tokens"] > count
    tokens = http.post("/tokenize", json={"prompt": text, "add_special_tokens": False}).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": tokens}).json()["prompt"] == text


@pytest.mark.parametrize(
    ("path", "more", "param"),
    [
        (CHAT, {"logit_bias": {"999999999": 1}}, "logit_bias"),
        (CHAT, {"logprobs": True, "top_logprobs": 500}, "top_logprobs"),
        (CHAT, {"structured_outputs": {"grammar": "root ::= root"}}, "structured_outputs"),
        (RAW, {"prompt": [10**9]}, "prompt"),
        (RAW, {"stop_token_ids": [-1]}, "stop_token_ids"),
        (RAW, {"structured_outputs": {"regex": "("}}, "structured_outputs"),
        (RESPONSES, {"logit_bias": {"999999999": 1}}, "logit_bias"),
        (
            RESPONSES,
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "no"}}}},
            "text",
        ),
        (MESSAGES, {"top_p": 5}, "top_p"),
        (
            MESSAGES,
            {
                "output_config": {
                    "format": {"type": "json_schema", "schema": {"type": "string", "pattern": "("}}
                }
            },
            "output_config",
        ),
    ],
    ids=str,
)
def test_a_mistake_that_the_engine_finds_late_has_its_status_in_streams_too(
    http: httpx.Client, path: str, more: dict[str, Any], param: str
) -> None:
    def refused() -> float:
        found = samples(http)
        return sum(
            value
            for (name, labels), value in found.items()
            if name == "gradientspace_requests_total" and {("endpoint", path), ("code", "400")} <= labels
        )

    before = refused()
    whole = http.post(path, json=BODIES[path] | more)
    streamed = http.post(path, json=BODIES[path] | more | {"stream": True})
    for answer in (whole, streamed):
        assert answer.status_code == 400, answer.text[:300]
        assert answer.headers["content-type"] == "application/json"
        found = answer.json()
        assert found.get("type") == ("error" if path == MESSAGES else None)
        assert set(found["error"]) == {"message", "type", "param", "code"}
        assert found["error"]["param"] == param
        assert "parameter=" not in found["error"]["message"]
    deadline = (
        time.monotonic() + 60
    )  # a request is counted when its answer has gone out, which is a moment later
    while refused() < before + 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert refused() == before + 2


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, {"messages": [*HELLO, {"content": "x"}]}, "messages.1.role"),
        (CHAT, {"messages": [*HELLO, *TURNS, {"role": "user"}]}, "messages.3.content"),
        (
            CHAT,
            {"messages": [*HELLO, {"role": "user", "content": [{"type": "text"}]}]},
            "messages.1.content.0.text",
        ),
        (
            CHAT,
            {"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"id": "1"}]}]},
            "messages.1.tool_calls.0.function",
        ),
        (MESSAGES, {"messages": [*HELLO, {"content": "x"}], "max_tokens": 1}, "messages.1.role"),
        (MESSAGES, {"messages": HELLO}, "max_tokens"),
        (
            MESSAGES,
            {"messages": HELLO, "max_tokens": 1, "tools": [{"type": "web_search_20250305", "name": "s"}]},
            "tools.0",
        ),
        (RESPONSES, {"input": [{"content": "a"}]}, "input.0.role"),
        (RESPONSES, {"input": [{"type": "nothing"}]}, "input.0.type"),
    ],
    ids=lambda value: str(value)[:70],
)
def test_an_error_names_the_field_that_is_wrong(
    http: httpx.Client, path: str, body: dict[str, Any], param: str
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_every_error_of_messages_has_its_envelope(http: httpx.Client) -> None:
    sent = {"content-type": "application/json"}
    for answer in (
        http.get(MESSAGES),
        http.post(MESSAGES, content=b"{", headers=sent),
        http.post(MESSAGES, content=b"{}"),
        http.post(MESSAGES, content=b" " * 5_000_000, headers=sent),
        http.post(MESSAGES, json=BODIES[MESSAGES] | {"model": "nobody"}),
        http.post(f"{MESSAGES}/count_tokens", json={}),
        http.post(f"{MESSAGES}/nothing", json={}),
    ):
        assert answer.status_code >= 400
        assert answer.json()["type"] == "error"
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert int(answer.headers["content-length"]) == len(answer.content)


def test_streams_are_not_stored_or_held_up_on_the_way(http: httpx.Client, prompt_for: dict[str, str]) -> None:
    split = {"prompt": list(prompt_for.values())[:2], "max_tokens": 1}
    for path, body in [*((path, BODIES[path]) for path in (CHAT, RAW, RESPONSES, MESSAGES)), (RAW, split)]:
        answer = http.post(path, json=body | {"stream": True})
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"


def test_head_wherever_get_is(http: httpx.Client) -> None:
    for path in (
        "/v1/models",
        "/v1/models/auto",
        "/v1/experts",
        "/health",
        "/health/live",
        "/",
        "/openapi.json",
    ):
        got, head = http.get(path), http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))
    assert http.head("/v1/chat/completions").status_code == 405
    assert http.head("/nowhere").status_code == 404


def test_one_model_and_pinned_versions_on_request(http: httpx.Client) -> None:
    listed = http.get("/v1/models").json()["data"]
    assert not any("@" in card["id"] for card in listed)
    for card in listed:
        assert http.get(f"/v1/models/{card['id']}").json() == card
        if card["root"] != card["id"]:
            pinned = http.get(f"/v1/models/{card['root']}").json()
            assert pinned in http.get("/v1/models?versions=true").json()["data"]
    answer = http.get("/v1/models/nobody")
    assert (answer.status_code, answer.json()["error"]["param"]) == (404, "model")


def test_metrics_are_compressed_for_whoever_takes_that(http: httpx.Client) -> None:
    with http.stream("GET", "/metrics", headers={"accept-encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
        assert answer.headers["content-encoding"] == "gzip"
    plain = http.get("/metrics", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(raw) < len(plain.content) / 3
