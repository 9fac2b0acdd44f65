"""OpenAI's agents SDK over /v1/responses: a run, its second turn, and a typed answer."""

import asyncio
import sys

from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

URL, BASE = sys.argv[1:]
set_tracing_disabled(True)


class City(BaseModel):
    city: str
    country: str


def model(name: str) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(model=name, openai_client=AsyncOpenAI(base_url=f"{URL}/v1", api_key="none"))


async def main() -> None:
    agent = Agent("clerk", instructions="Be brief.", model=model("auto"))
    first = await Runner.run(agent, "What is the capital of France?")
    assert first.final_output
    again = [*first.to_input_list(), {"role": "user", "content": "And of Italy?"}]
    assert (await Runner.run(agent, again)).final_output
    typed = Agent("typed", model=model(BASE), output_type=City)
    assert isinstance((await Runner.run(typed, "What is the capital of France?")).final_output, City)


asyncio.run(main())
