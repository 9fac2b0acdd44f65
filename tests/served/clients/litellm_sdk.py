"""litellm's SDK: turns, a stream, a tool that has to be called, a form, its own error for a long prompt."""

import json
import os
import sys

import litellm

URL, BASE = sys.argv[1:]
os.environ["OPENAI_API_KEY"] = "none"
HERE = {"api_base": f"{URL}/v1"}
ASKED = [{"role": "user", "content": "What is the capital of France?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}

answer = litellm.completion("openai/auto", ASKED, **HERE)
assert answer.choices[0].message.content and answer.usage.completion_tokens > 0
turns = [*ASKED, answer.choices[0].message.model_dump(), {"role": "user", "content": "And of Italy?"}]
assert litellm.completion("openai/auto", turns, **HERE).choices[0].message.content
pieces = [
    chunk.choices[0].delta.content or ""
    for chunk in litellm.completion("openai/auto", ASKED, stream=True, **HERE)
]
assert "".join(pieces).strip()

tool = {"type": "function", "function": {"name": "look_up", "parameters": CITY}}
called = litellm.completion(f"openai/{BASE}", ASKED, tools=[tool], tool_choice="required", **HERE)
(call,) = called.choices[0].message.tool_calls
assert (call.function.name, set(json.loads(call.function.arguments))) == ("look_up", {"city"})
played = [
    *ASKED,
    called.choices[0].message.model_dump(),
    {"role": "tool", "tool_call_id": call.id, "content": "Paris it is"},
]
assert litellm.completion(f"openai/{BASE}", played, **HERE).choices[0].message.content is not None

form = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
formed = litellm.completion(f"openai/{BASE}", ASKED, response_format=form, temperature=0, **HERE)
assert json.loads(formed.choices[0].message.content) == {"city": "Paris"}

try:
    litellm.completion("openai/auto", [{"role": "user", "content": "word " * 3000}], **HERE)
except litellm.ContextWindowExceededError as error:
    assert error.status_code == 400
else:
    raise AssertionError("a prompt that is too long was answered")
responded = litellm.responses(input="What is the capital of France?", model="openai/auto", **HERE)
assert responded.output[0].content[0].text
