"""What the official OpenAI client can ask for beyond a plain answer, each time of the expert that was meant.

The demo's model is tiny: under a constraint it writes nonsense of the right form, so the form is what is checked.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai as sdk
import pytest
from openai import OpenAI

from bundle.manifest import Manifest
from service import headers

VERDICT = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": ["yes", "no"]}, "certain": {"type": "boolean"}},
    "required": ["verdict", "certain"],
    "additionalProperties": False,
}
JUDGE: dict[str, Any] = {
    "type": "function",
    "function": {"name": "judge", "description": "Says yes or no", "parameters": VERDICT, "strict": True},
}
NAMED: dict[str, Any] = {"type": "function", "function": {"name": "judge"}}


@pytest.fixture(params=[0, -1], ids=["first expert", "last expert"])
def asked(request: pytest.FixtureRequest, manifest: Manifest, prompt_for: dict[str, str]) -> dict[str, Any]:
    """A routed request, and under `expert` who has to answer it."""
    expert = manifest.experts[request.param]
    messages = [{"role": "user", "content": prompt_for[expert.name]}]
    return {"expert": expert, "request": {"model": "auto", "messages": messages, "max_tokens": 16}}


def judged(arguments: str) -> dict[str, Any]:
    found = json.loads(arguments)
    assert set(found) == {"verdict", "certain"}
    assert found["verdict"] in ("yes", "no")
    assert isinstance(found["certain"], bool)
    return found


def test_logprobs(openai: OpenAI, asked: dict[str, Any]) -> None:
    answer = openai.chat.completions.create(**asked["request"], logprobs=True, top_logprobs=3, n=2)
    assert answer.model == asked["expert"].engine_name
    for choice in answer.choices:
        assert choice.logprobs is not None
        for token in choice.logprobs.content or ():
            assert token.logprob <= 0
            assert len(token.top_logprobs) == 3


def test_stop(openai: OpenAI, asked: dict[str, Any]) -> None:
    free = openai.chat.completions.create(**asked["request"], temperature=0)
    text = free.choices[0].message.content or ""
    stop = text[len(text) // 2]
    stopped = openai.chat.completions.create(**asked["request"], temperature=0, stop=[stop])
    assert stopped.model == asked["expert"].engine_name
    assert stopped.choices[0].message.content == text.partition(stop)[0]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_seed_repeats_what_was_drawn(openai: OpenAI, asked: dict[str, Any]) -> None:
    def drawn(seed: int) -> list[str | None]:
        answer = openai.chat.completions.create(**asked["request"], temperature=1.5, n=3, seed=seed)
        assert answer.model == asked["expert"].engine_name
        return [choice.message.content for choice in answer.choices]

    assert drawn(5) == drawn(5)
    assert len(set(drawn(5) + drawn(6))) > 3


def test_json_schema(openai: OpenAI, asked: dict[str, Any], no_blanks: dict[str, float]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": VERDICT, "strict": True}}
    request = asked["request"] | {"max_tokens": 96, "logit_bias": no_blanks}
    answer = openai.chat.completions.create(**request, response_format=form)
    assert answer.model == asked["expert"].engine_name
    judged(answer.choices[0].message.content or "")


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_that_has_to_be_called(
    openai: OpenAI, asked: dict[str, Any], choice: Any, stream: bool, no_blanks: dict[str, float]
) -> None:
    request = asked["request"] | {
        "max_tokens": 160,
        "logit_bias": no_blanks,
        "tools": [JUDGE],
        "tool_choice": choice,
        "temperature": 0,
    }
    if not stream:
        answer = openai.chat.completions.create(**request)
        assert answer.model == asked["expert"].engine_name
        calls = [
            (call.function.name, call.function.arguments) for call in answer.choices[0].message.tool_calls
        ]
    else:
        pieces: dict[int, list[str]] = {}
        for chunk in openai.chat.completions.create(**request, stream=True):
            assert chunk.model == asked["expert"].engine_name
            for call in (call for choice in chunk.choices for call in choice.delta.tool_calls or ()):
                piece = pieces.setdefault(call.index, ["", ""])
                piece[0] += call.function.name or ""
                piece[1] += call.function.arguments or ""
        calls = [(name, arguments) for name, arguments in pieces.values()]
    assert calls[0][0] == "judge"
    judged(calls[0][1])


def test_a_tool_that_may_be_called_is_refused_where_nobody_knows_how_the_model_calls(
    openai: OpenAI, http: httpx.Client, asked: dict[str, Any]
) -> None:
    for more in ({}, {"tool_choice": "auto"}):  # tools without a choice mean auto
        with pytest.raises(sdk.BadRequestError, match="--tool-call-parser") as caught:
            openai.chat.completions.create(**asked["request"], tools=[JUDGE], **more)
        assert caught.value.param == "tool_choice"
    flat = {"type": "function", "name": "judge", "parameters": VERDICT}
    anthropic = {"name": "judge", "input_schema": VERDICT}
    for path, body in [
        ("/v1/responses", {"input": "a", "tools": [flat]}),
        ("/v1/responses", {"input": "a", "tools": [flat], "tool_choice": {"type": "web_search_preview"}}),
        ("/v1/messages", asked["request"] | {"tools": [anthropic]}),
        ("/v1/messages", asked["request"] | {"tools": [anthropic], "tool_choice": {"type": "auto"}}),
    ]:
        assert http.post(path, json=body).json()["error"]["param"] == "tool_choice"
    free = openai.chat.completions.create(**asked["request"], tools=[JUDGE], tool_choice="none")
    assert free.model == asked["expert"].engine_name


def test_a_tools_result_goes_back_to_the_expert_that_the_question_was_for(
    openai: OpenAI, asked: dict[str, Any]
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "judge", "arguments": "{}"}}
    messages = [
        *asked["request"]["messages"],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "yes"},
    ]
    answer = openai.chat.completions.create(
        **asked["request"] | {"messages": messages}, tools=[JUDGE], tool_choice="none"
    )
    assert answer.model == asked["expert"].engine_name


def test_responses(openai: OpenAI, asked: dict[str, Any]) -> None:
    prompt = asked["request"]["messages"][0]["content"]
    request = {"model": "auto", "input": prompt, "max_output_tokens": 12, "temperature": 0}
    raw = openai.responses.with_raw_response.create(**request)
    whole = raw.parse()
    assert whole.model == asked["expert"].engine_name
    assert raw.headers[headers.EXPERT] == asked["expert"].name
    said, last = "", None
    for event in openai.responses.create(**request, stream=True):
        if event.type == "response.output_text.delta":
            said += event.delta
        last = event
    assert said == whole.output_text
    assert last is not None
    assert last.response.model == asked["expert"].engine_name
    assert last.response.usage.output_tokens == whole.usage.output_tokens


def test_responses_keep_no_state(openai: OpenAI) -> None:
    kept = openai.responses.create(model="auto", input="Hello", max_output_tokens=2)
    with pytest.raises(sdk.NotFoundError):
        openai.responses.retrieve(kept.id)
    for more in ({"store": True}, {"background": True}, {"previous_response_id": kept.id}):
        with pytest.raises(sdk.BadRequestError, match=r"keeps no state|stores no answers") as caught:
            openai.responses.create(model="auto", input="Hello", **more)
        assert caught.value.param in more
    again = openai.responses.create(model="auto", input="Hello", max_output_tokens=2, store=False)
    assert again.status in ("completed", "incomplete")


def test_responses_of_a_form_and_with_a_tool(
    openai: OpenAI, asked: dict[str, Any], no_blanks: dict[str, float]
) -> None:
    more: dict[str, Any] = {"extra_body": {"logit_bias": no_blanks}}
    prompt = asked["request"]["messages"][0]["content"]
    form = {"format": {"type": "json_schema", "name": "verdict", "schema": VERDICT, "strict": True}}
    answer = openai.responses.create(model="auto", input=prompt, text=form, max_output_tokens=96, **more)
    assert answer.model == asked["expert"].engine_name
    judged(answer.output_text)
    tool = {"type": "function", "name": "judge", "parameters": VERDICT, "strict": True}
    called = openai.responses.create(
        model="auto",
        input=prompt,
        tools=[tool],
        tool_choice={"type": "function", "name": "judge"},
        temperature=0,
        max_output_tokens=160,
        **more,
    )
    assert called.model == asked["expert"].engine_name
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert call.name == "judge"
    judged(call.arguments)
