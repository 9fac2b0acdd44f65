"""Instructor at its default (a tool that has to be called), in JSON mode, over two turns, and streamed in parts."""

import sys

import instructor
from openai import OpenAI
from pydantic import BaseModel

URL, BASE = sys.argv[1:]
ASKED = [{"role": "user", "content": "What is the capital of France, and in which country is it?"}]


class City(BaseModel):
    """A city and its country."""

    city: str
    country: str


plain = OpenAI(base_url=f"{URL}/v1", api_key="none")
client = instructor.from_openai(plain)
for model in (BASE, "expert-0"):
    found = client.chat.completions.create(model=model, messages=ASKED, response_model=City, temperature=0)
    assert isinstance(found, City)
    assert found.city
turns = [
    *ASKED,
    {"role": "assistant", "content": found.model_dump_json()},
    {"role": "user", "content": "And of Italy?"},
]
assert client.chat.completions.create(model=BASE, messages=turns, response_model=City, temperature=0).city
parts = list(
    client.chat.completions.create_partial(model=BASE, messages=ASKED, response_model=City, temperature=0)
)
assert parts[-1].city
by_schema = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
assert by_schema.chat.completions.create(model=BASE, messages=ASKED, response_model=City, temperature=0).city
