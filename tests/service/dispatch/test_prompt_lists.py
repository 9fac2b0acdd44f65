"""A list of prompts that needs several experts: split, run side by side, put together in prompt order."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from service import headers
from tests.stand_ins.dispatch_setup import EXPERTS, LIMITS, Setup


async def test_prompts_for_one_expert_stay_one_request() -> None:
    setup = Setup()
    answer = await setup.post("/v1/completions", {"prompt": ["1 a", "1 b"]})
    assert len(setup.inner.bodies) == 1
    assert setup.inner.bodies[0]["prompt"] == ["1 a", "1 b"]
    assert answer.headers[headers.EXPERT] == "expert-1,expert-1"


async def test_prompts_for_several_experts_are_split_and_put_together() -> None:
    setup = Setup()
    prompts = ["1 a", "0 b", "1 c", "2 d"]
    answer = await setup.post(
        "/v1/completions", {"prompt": prompts, "n": 2}, headers={"x-request-id": "mine"}
    )
    names = [setup.names.experts[k].engine_name for k in (1, 0, 1, 2)]
    choices = answer.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(8))
    assert [choice["text"] for choice in choices] == [
        f"{name}|{prompt}|{copy}" for name, prompt in zip(names, prompts, strict=True) for copy in range(2)
    ]
    assert answer.json()["usage"] == {
        "prompt_tokens": 40,
        "completion_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": None,
    }
    assert answer.json()["model"] == "auto"
    assert [choice["model"] for choice in choices] == [name for name in names for _ in range(2)]
    assert answer.json()["id"] == "cmpl-mine"
    assert sorted(len(body["prompt"]) for body in setup.inner.bodies) == [1, 1, 2]
    assert answer.headers[headers.EXPERT] == "expert-1,expert-0,expert-1,expert-2"
    assert answer.headers[headers.CONFIDENCE] == "0.8000,0.8000,0.8000,0.8000"
    for expert in EXPERTS:
        labels = {"expert": expert, "endpoint": "/v1/completions", "reason": "routed", "code": "200"}
        assert setup.count("requests_total", **labels) == 1


async def test_streams_of_several_experts_are_interleaved() -> None:
    setup = Setup()
    answer = await setup.post("/v1/completions", {"prompt": ["1 a", "0 b", "1 c"], "stream": True})
    *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    *chunks, closing = [json.loads(event) for event in events]
    spoken: dict[int, list[str]] = {}
    speaker: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            spoken.setdefault(choice["index"], []).append(choice["text"])
            speaker[choice["index"]] = chunk["model"]
    assert spoken == {place: ["one", "two", "three"] for place in range(3)}
    assert [speaker[place].partition("@")[0] for place in range(3)] == ["expert-1", "expert-0", "expert-1"]
    assert closing["choices"] == []
    assert closing["usage"] == {"total_tokens": 9}
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers[headers.EXPERT] == "expert-1,expert-0,expert-1"
    assert (
        setup.count("time_to_first_token_seconds_count", expert="expert-1", endpoint="/v1/completions") == 1
    )


@pytest.mark.parametrize("stream", [False, True])
async def test_a_part_that_fails_fails_the_whole_and_stops_the_others(stream: bool) -> None:
    setup = Setup()
    setup.inner.fail_for, setup.inner.hang_for = "expert-2", "expert-0"
    asked = {"prompt": ["1 a", "2 b", "0 c"], "stream": stream}
    answer = await asyncio.wait_for(setup.post("/v1/completions", asked), 120)
    assert setup.inner.disconnects == 1
    assert answer.status_code == 400
    assert answer.json()["error"] == {
        "message": "too long",
        "type": "BadRequestError",
        "param": "prompt",
        "code": 400,
    }
    assert answer.headers[headers.EXPERT] == "expert-1,expert-2,expert-0"


async def test_token_id_prompts_are_split_too_and_kinds_are_not_mixed() -> None:
    setup = Setup()
    ids = [[ord(letter) for letter in prompt] for prompt in ("1 a", "0 b")]
    answer = await setup.post("/v1/completions", {"prompt": ids})
    assert answer.headers[headers.EXPERT] == "expert-1,expert-0"
    assert [body["prompt"] for body in setup.inner.bodies] == [[one] for one in ids]
    mixed = await setup.post("/v1/completions", {"prompt": ["1 a", ids[1]]})
    assert (mixed.status_code, mixed.json()["error"]["param"]) == (400, "prompt")


@pytest.mark.parametrize("n", ["many", 1.5, [1], {"a": 1}])
async def test_an_n_that_is_no_number_of_answers(n: object) -> None:
    answer = await Setup().post("/v1/completions", {"prompt": ["1 a", "2 b"], "n": n})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "n")


@pytest.mark.parametrize("ending", ["error", "nothing", "raise", "no json"])
async def test_a_stream_that_breaks_off_ends_the_whole_with_an_error(ending: str) -> None:
    setup = Setup()
    setup.inner.break_for, setup.inner.break_with = "expert-2", ending
    asked = {"prompt": ["1 a", "2 b"], "stream": True, "stream_options": {"include_usage": True}}
    answer = await asyncio.wait_for(setup.post("/v1/completions", asked), 120)
    *events, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    *chunks, closing = [json.loads(event) for event in events]
    assert all("choices" in chunk for chunk in chunks)
    assert set(closing["error"]) == {"message", "type", "param", "code"}
    assert closing["error"]["code"] == (507 if ending == "error" else 500)
    assert "secret" not in answer.text


async def test_a_named_expert_is_listed_once_for_each_prompt() -> None:
    setup = Setup()
    for prompt, count in ((["0 a", "1 b", "2 c"], 3), ("0 a", 1), ([1, 2, 3], 1), ([[1], [2]], 2)):
        answer = await setup.post("/v1/completions", {"model": "expert-2", "prompt": prompt})
        assert answer.headers[headers.EXPERT] == ",".join(["expert-2"] * count)
        assert answer.headers[headers.REASON] == ",".join(["named"] * count)
    assert len(setup.inner.bodies) == 4


async def test_a_long_list_of_prompts_does_not_make_headers_that_no_client_reads() -> None:
    setup = Setup(limits=replace(LIMITS, choices=200))
    listed = await setup.post("/v1/completions", {"prompt": ["1 a", "2 b"] * 64})
    assert len(listed.headers[headers.EXPERT].split(",")) == 128
    answer = await setup.post("/v1/completions", {"prompt": ["1 a", "2 b"] * 65})
    assert headers.EXPERT not in answer.headers
    names = [setup.names.experts[k].engine_name for k in (1, 2)]
    assert [choice["model"] for choice in answer.json()["choices"]] == names * 65


async def test_only_completions_are_split() -> None:
    setup = Setup()
    answer = await setup.post("/tokenize", {"prompt": ["1 a", "2 b"]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
    assert setup.inner.bodies == []
