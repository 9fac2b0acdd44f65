"""Anthropic's official client, unchanged, against the service."""

from __future__ import annotations

import re

import anthropic as sdk
import pytest
from anthropic import Anthropic

from bundle.manifest import Manifest
from service import headers
from tests.stand_ins.live_server import LiveServer

NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.fixture(scope="module")
def anthropic(server: LiveServer) -> Anthropic:
    return Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=300)


def test_a_message(anthropic: Anthropic, manifest: Manifest, prompt_for: dict[str, str]) -> None:
    for expert in manifest.experts:
        raw = anthropic.messages.with_raw_response.create(
            model="auto",
            max_tokens=6,
            messages=[{"role": "user", "content": [{"type": "text", "text": prompt_for[expert.name]}]}],
        )
        answer = raw.parse()
        assert answer.model == expert.engine_name
        assert raw.headers[headers.EXPERT] == expert.name
        assert answer.role == "assistant"
        assert 1 <= answer.usage.output_tokens <= 6


def test_a_stream_says_what_the_whole_answer_says(
    anthropic: Anthropic, manifest: Manifest, prompt_for: dict[str, str]
) -> None:
    expert = manifest.experts[0]
    asked = {
        "model": expert.name,
        "max_tokens": 12,
        "extra_body": {"temperature": 0},  # the client has no such argument, the service takes it
        "system": "Answer.",
        "messages": [{"role": "user", "content": prompt_for[manifest.label_order[-1]]}],
    }
    whole = anthropic.messages.create(**asked)
    with anthropic.messages.stream(**asked) as stream:
        said = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert said == "".join(block.text for block in whole.content if block.type == "text")
    assert last.model == whole.model == expert.engine_name
    assert last.usage.output_tokens == whole.usage.output_tokens


def test_a_named_tool(anthropic: Anthropic, manifest: Manifest, prompt_for: dict[str, str]) -> None:
    """A model this small fills the room of a form with blanks; cut off there, the form is told by its beginning."""
    expert, called = manifest.experts[-1], None
    for _ in range(40):
        answer = anthropic.messages.create(
            model="auto",
            max_tokens=64,
            extra_body={"temperature": 2.0},
            messages=[{"role": "user", "content": prompt_for[expert.name]}],
            tools=[{"name": "judge", "description": "", "input_schema": NOTHING, "strict": True}],
            tool_choice={"type": "tool", "name": "judge"},
        )
        assert answer.model == expert.engine_name
        (block,) = answer.content
        if block.type == "tool_use":
            called = block
            break
        assert answer.stop_reason == "max_tokens"
        assert re.match(r'<tool_call>\s*{"name": "judge", "arguments": {', block.text)
    assert called is not None, "no form was ever filled in"
    assert (called.name, called.input) == ("judge", {})


def test_counting_tokens(anthropic: Anthropic, prompt_for: dict[str, str]) -> None:
    prompt = next(iter(prompt_for.values()))
    short = anthropic.messages.count_tokens(model="auto", messages=[{"role": "user", "content": "a"}])
    long = anthropic.messages.count_tokens(model="auto", messages=[{"role": "user", "content": prompt}])
    assert 0 < short.input_tokens < long.input_tokens


def test_errors_become_the_clients_own_classes(anthropic: Anthropic) -> None:
    hello = [{"role": "user", "content": "Hello"}]
    with pytest.raises(sdk.NotFoundError, match="nobody"):
        anthropic.messages.create(model="nobody", max_tokens=1, messages=hello)
    with pytest.raises(sdk.BadRequestError, match="max_tokens"):
        anthropic.messages.create(model="auto", max_tokens=-1, messages=hello)
    image = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/secret.png"}}
    with pytest.raises(sdk.BadRequestError, match="text only"):
        anthropic.messages.create(model="auto", max_tokens=1, messages=[{"role": "user", "content": [image]}])
