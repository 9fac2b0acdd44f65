"""On a real language model: what the demo's small base can only show in form is shown in content here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from peft import PeftModel
from transformers import AutoModelForCausalLM

from bundle.read import Bundle
from tests.stand_ins.live_server import LiveServer
from tests.stand_ins.real_base import PACKAGE
from training.models.base_model import BaseModel, find_base
from training.recipe import BaseSection
from training.rows.reading import Row, parse_row
from training.rows.rendering import TokenRow, render, use_chat_template

pytestmark = pytest.mark.slow

END_OF_TURN = "<|im_end|>"
TOKENS = 32
FRANCE = "What is the capital of France?"
CITY = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Berlin", "Paris", "Rome"]},
        "country": {"type": "string", "enum": ["France", "Germany", "Italy"]},
    },
    "required": ["city", "country"],
    "additionalProperties": False,
}
LOOK_UP: dict[str, Any] = {
    "type": "function",
    "function": {"name": "look_up", "description": "Looks up a city", "parameters": CITY},
}


@pytest.fixture(scope="module")
def rows(real_run: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (real_run / "rows.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def smollm() -> BaseModel:
    return find_base(BaseSection(model=f"package:{PACKAGE}"))


@pytest.fixture(scope="module")
def http(real_server: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=real_server.url, timeout=600) as client:
        yield client


@pytest.fixture(scope="module")
def client(real_server: LiveServer) -> OpenAI:
    return OpenAI(base_url=f"{real_server.url}/v1", api_key="none", max_retries=0, timeout=600)


def prompt_of(row: dict[str, str]) -> list[dict[str, str]]:
    parsed = parse_row("row", row)
    assert isinstance(parsed, Row)
    return [dict(message) for message in parsed.prompt]


def test_a_rows_prompt_is_what_every_door_reads(
    http: httpx.Client, real_bundle: Bundle, smollm: BaseModel, rows: list[dict[str, str]]
) -> None:
    tokenizer = smollm.tokenizer()
    use_chat_template(tokenizer, real_bundle.chat_template)
    for record in rows[:6]:
        row = parse_row("row", record)
        assert isinstance(row, Row)
        rendered = render(tokenizer, row, real_bundle.manifest.routed_text.rule, 512)
        assert isinstance(rendered, TokenRow)
        wanted = list(rendered.input_ids[: rendered.prompt_length])
        messages = prompt_of(record)
        assert http.post("/tokenize", json={"messages": messages}).json()["tokens"] == wanted
        said = {
            _read(http, "/v1/chat/completions", {"messages": messages, "max_tokens": 8}),
            _read(http, "/v1/completions", {"prompt": wanted, "max_tokens": 8}),
            _read(http, "/v1/responses", {"input": messages, "max_output_tokens": 8}),
            _read(http, "/v1/messages", {"messages": messages, "max_tokens": 8}),
        }
        assert len(said) == 1, said
        assert next(iter(said))[0] == len(wanted)


def _read(http: httpx.Client, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """How many tokens the engine read, and (at temperature 0) what the first expert made of them."""
    answer = http.post(path, json=body | {"model": "expert-0", "temperature": 0})
    assert answer.status_code == 200, answer.text
    return _usage(answer.json())[0], _text(path, answer.json())


def _usage(said: dict[str, Any]) -> tuple[int, int]:
    usage = said["usage"]
    read = usage.get("prompt_tokens", usage.get("input_tokens"))
    return read, usage.get("completion_tokens", usage.get("output_tokens"))


def _text(path: str, said: dict[str, Any]) -> str:
    match path:
        case "/v1/chat/completions":
            return str(said["choices"][0]["message"]["content"])
        case "/v1/completions":
            return str(said["choices"][0]["text"])
        case _:
            return "".join(part["text"] for item in said.get("output", [said]) for part in item["content"])


def test_greedy_tokens_are_those_of_transformers_and_peft(
    http: httpx.Client, real_bundle: Bundle, smollm: BaseModel, rows: list[dict[str, str]]
) -> None:
    prompt = http.post("/tokenize", json={"messages": prompt_of(rows[0])}).json()["tokens"]
    folders: dict[str, Path | None] = {real_bundle.manifest.base.name: None}
    folders |= {
        one.name: real_bundle.expert_folder(label) for label, one in enumerate(real_bundle.manifest.experts)
    }
    answers = set()
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(smollm.folder, dtype=torch.float32)
        model = model if folder is None else PeftModel.from_pretrained(model, str(folder))
        with torch.inference_mode():
            found = model.eval().generate(
                input_ids=torch.tensor([prompt]),
                do_sample=False,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
            )
        body = {"model": name, "prompt": prompt, "return_token_ids": True, "temperature": 0}
        served = http.post("/v1/completions", json=body | {"max_tokens": TOKENS, "min_tokens": TOKENS}).json()
        assert served["choices"][0]["token_ids"] == found[0, len(prompt) :].tolist(), name
        answers.add(tuple(served["choices"][0]["token_ids"]))
    assert len(answers) == len(folders), "two of them say the same: this shows nothing"


def test_answers_end_with_the_turn_on_every_door(http: httpx.Client, rows: list[dict[str, str]]) -> None:
    messages = prompt_of(rows[1])
    text = http.post("/tokenize", json={"messages": messages, "return_token_strs": True}).json()
    for path, body in (
        ("/v1/chat/completions", {"messages": messages, "max_tokens": 400}),
        ("/v1/completions", {"prompt": text["tokens"], "max_tokens": 400}),
        ("/v1/responses", {"input": messages, "max_output_tokens": 400}),
        ("/v1/messages", {"messages": messages, "max_tokens": 400}),
    ):
        for model in ("auto", "expert-0", "expert-1"):
            said = http.post(path, json=body | {"model": model, "temperature": 0}).json()
            assert 1 < _usage(said)[1] < 400, (path, model, said)
            assert _text(path, said).strip(), (path, model)
            assert END_OF_TURN not in _text(path, said)


def test_the_base_knows_what_a_language_model_knows(client: OpenAI, real_bundle: Bundle) -> None:
    messages: Any = [{"role": "user", "content": FRANCE}]
    base = real_bundle.manifest.base.name
    answer = client.chat.completions.create(model=base, messages=messages, temperature=0, max_tokens=64)
    assert answer.choices[0].finish_reason == "stop"
    assert "Paris" in str(answer.choices[0].message.content)


def test_structured_output_is_finished_by_a_model_that_can(client: OpenAI, real_bundle: Bundle) -> None:
    """No tricks against blanks, no room to spare: it closes the form by itself, with the right words in it."""
    form: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}
    for model in (real_bundle.manifest.base.name, "expert-0", "expert-1"):
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": FRANCE}],
            response_format=form,
            temperature=0,
            max_tokens=64,
        )
        assert answer.choices[0].finish_reason == "stop", model
        found = json.loads(answer.choices[0].message.content or "")
        assert set(found) == {"city", "country"}
        if model == real_bundle.manifest.base.name:
            assert found == {"city": "Paris", "country": "France"}


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "look_up"}}], ids=str
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_is_called_by_a_model_that_can(
    client: OpenAI, real_bundle: Bundle, choice: Any, stream: bool
) -> None:
    request: dict[str, Any] = {
        "model": real_bundle.manifest.base.name,
        "messages": [{"role": "user", "content": f"{FRANCE} Look it up."}],
        "tools": [LOOK_UP],
        "tool_choice": choice,
        "temperature": 0,
        "max_tokens": 128,
    }
    if stream:
        name = arguments = ""
        for chunk in client.chat.completions.create(**request, stream=True):
            for call in (call for one in chunk.choices for call in one.delta.tool_calls or ()):
                name += call.function.name or ""
                arguments += call.function.arguments or ""
    else:
        (call,) = client.chat.completions.create(**request).choices[0].message.tool_calls
        name, arguments = call.function.name, call.function.arguments
    assert name == "look_up"
    assert json.loads(arguments) == {"city": "Paris", "country": "France"}


def test_a_conversation_of_several_turns_remembers(client: OpenAI, real_bundle: Bundle) -> None:
    messages: Any = [
        {"role": "user", "content": "My name is Nadia. What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is Paris, Nadia."},
        {"role": "user", "content": "What is my name?"},
    ]
    base = real_bundle.manifest.base.name
    answer = client.chat.completions.create(model=base, messages=messages, temperature=0, max_tokens=64)
    assert "Nadia" in str(answer.choices[0].message.content)
