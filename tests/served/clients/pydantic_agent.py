"""Pydantic AI: an agent's text, its history, its stream, and a typed answer through its output tool."""

import asyncio
import sys

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

URL, BASE = sys.argv[1:]
ASKED = "What is the capital of France?"


class City(BaseModel):
    """A city and its country."""

    city: str
    country: str


def model(name: str) -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=f"{URL}/v1", api_key="none"))


agent = Agent(model("auto"), instructions="Be brief.")
first = agent.run_sync(ASKED)
assert first.output
assert agent.run_sync("And of Italy?", message_history=first.all_messages()).output


async def streamed() -> str:
    async with agent.run_stream(ASKED) as answer:
        return "".join([piece async for piece in answer.stream_text(delta=True)])


assert asyncio.run(streamed()).strip()
typed = Agent(model(BASE), output_type=City, model_settings={"temperature": 0}).run_sync(ASKED)
assert isinstance(typed.output, City)
