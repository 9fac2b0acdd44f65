"""Anthropic's own SDK: turns with a system prompt, a stream, a tool that has to be called and its result, a count."""

import sys

import anthropic

URL, BASE = sys.argv[1:]
ASKED = {"role": "user", "content": "What is the capital of France?"}
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
}

client = anthropic.Anthropic(base_url=URL, api_key="none")
first = client.messages.create(model="auto", max_tokens=64, system="Be brief.", messages=[ASKED])
assert first.content[0].text and first.stop_reason in ("end_turn", "max_tokens")
turns = [ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": "And of Italy?"}]
with client.messages.stream(model="auto", max_tokens=64, messages=turns) as stream:
    text = "".join(stream.text_stream)
    assert text.strip() and stream.get_final_message().usage.output_tokens > 0
tool = {"name": "look_up", "description": "Looks up a city", "input_schema": CITY}
called = client.messages.create(
    model=BASE,
    max_tokens=128,
    messages=[ASKED],
    tools=[tool],
    tool_choice={"type": "tool", "name": "look_up"},
)
(use,) = [part for part in called.content if part.type == "tool_use"]
assert use.name == "look_up" and set(use.input) == {"city"}
result = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "Paris it is"}],
}
played = [ASKED, {"role": "assistant", "content": called.content}, result]
assert client.messages.create(model=BASE, max_tokens=64, messages=played).usage.output_tokens > 0
assert client.messages.count_tokens(model="auto", messages=[ASKED]).input_tokens > 5
try:
    client.messages.create(model="auto", max_tokens=8, messages=[{"role": "user", "content": "word " * 3000}])
except anthropic.BadRequestError as error:
    assert error.body["type"] == "error"
else:
    raise AssertionError("a prompt that is too long was answered")
