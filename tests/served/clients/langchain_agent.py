"""LangChain's ChatOpenAI: turns, a stream, a form, a tool that has to be called, its own error for a long prompt."""

import sys

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

URL, BASE = sys.argv[1:]
ASKED = "What is the capital of France?"


class City(BaseModel):
    """A city and its country."""

    city: str
    country: str


@tool
def look_up(city: str) -> str:
    """Look up a city."""
    return f"{city} it is"


def chat(model: str) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{URL}/v1", api_key="none", model=model)


auto = chat("auto")
turns = [SystemMessage("Be brief."), HumanMessage(ASKED)]
first = auto.invoke(turns)
assert first.content and first.response_metadata["model_name"] != "auto"
assert auto.invoke([*turns, first, HumanMessage("And of Italy?")]).content
assert "".join(chunk.content for chunk in auto.stream(ASKED)).strip()
found = chat(BASE).with_structured_output(City).invoke(ASKED)
assert isinstance(found, City) and found.city
called = chat(BASE).bind_tools([look_up], tool_choice="look_up").invoke(ASKED)
assert isinstance(called, AIMessage)
(call,) = called.tool_calls
assert call["name"] == "look_up" and isinstance(call["args"]["city"], str)
result = ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"])
assert chat(BASE).invoke([HumanMessage(ASKED), called, result]).content is not None
try:
    auto.invoke("word " * 3000)
except ContextOverflowError:
    pass
else:
    raise AssertionError("a prompt that is too long was answered")
