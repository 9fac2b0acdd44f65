from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.engine import json_schemas
from service.engine.json_schemas import compile_schemas, remember_schemas, schemas_of
from service.errors import BadRequestError

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
BODIES: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
    {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}},
    {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    {"structured_outputs": {"json": SCHEMA}},
    {"structured_outputs": {"json": json.dumps(SCHEMA, indent=4)}},
    {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        "tool_choice": "required",
    },
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}}]},
    {
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "tool_choice": {"type": "function", "name": "f"},
    },
    {"tools": [{"name": "f", "input_schema": SCHEMA}], "tool_choice": {"type": "any"}},
]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is compiled, in a thread that is not the loop's; xgrammar is as before afterwards."""
    xgrammar = pytest.importorskip("xgrammar", reason="NOT TESTED: xgrammar is not installed")
    texts: list[str] = []
    loop = threading.get_ident()

    def compile_it(text: str) -> str:
        assert threading.get_ident() != loop, "it was compiled on the event loop"
        texts.append(text)
        if "broken" in text:
            raise RuntimeError("no schema")
        return f"grammar of {text}"

    json_schemas._compiler.cache_clear()
    json_schemas._tag_compiler.cache_clear()
    json_schemas._memory.clear()
    monkeypatch.setattr(xgrammar.Grammar, "from_structural_tag", staticmethod(compile_it))
    monkeypatch.setattr(xgrammar.Grammar, "from_json_schema", staticmethod(compile_it))
    remember_schemas()
    yield texts
    json_schemas._compiler.cache_clear()
    json_schemas._tag_compiler.cache_clear()
    json_schemas._memory.clear()


@pytest.mark.parametrize("body", BODIES)
async def test_every_doors_schema_is_compiled_beside_the_loop_and_once(
    body: dict[str, Any], compiled: list[str]
) -> None:
    import xgrammar

    await compile_schemas(body)
    await compile_schemas(body)
    assert compiled == [json.dumps(SCHEMA)]
    # What vLLM then does, on the loop.
    assert xgrammar.Grammar.from_json_schema(SCHEMA) == f"grammar of {json.dumps(SCHEMA)}"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}], ids=str)
async def test_the_call_of_a_tool_is_not_compiled_on_the_loop(choice: Any, compiled: list[str]) -> None:
    """As vLLM makes the form of a call, for every parser that has one."""
    import xgrammar
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers.structural_tag_registry import get_model_structural_tag
    from vllm.tool_parsers.tool_strict_level import ToolStrictLevel

    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "a"}],
        "tools": [tool],
        "tool_choice": choice,
    }
    await compile_schemas(body)
    assert compiled == [json.dumps(SCHEMA)]
    request = ChatCompletionRequest(**body)
    tag = get_model_structural_tag(
        model="hermes",
        tools=request.tools,
        tool_choice=request.tool_choice,
        reasoning=False,
        strict_level=ToolStrictLevel.PARAMETER,
    )
    xgrammar.Grammar.from_structural_tag(tag.model_dump_json())  # on the loop, which `compiled` forbids
    assert len(compiled) == 1


def test_tools_that_may_be_called_are_not_compiled() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": SCHEMA}}
    for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        assert not any(schemas_of({"tools": [tool]} | choice))
    assert not any(schemas_of({"tools": [None, 1, {"function": 2}, {}], "tool_choice": "required"}))


async def test_a_schema_that_is_none_is_the_error_that_it_was(compiled: list[str]) -> None:
    import xgrammar

    schema = {"type": "broken"}
    await compile_schemas({"structured_outputs": {"json": schema}})
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no schema"):
            xgrammar.Grammar.from_json_schema(schema)
    assert len(compiled) == 1


async def test_others_are_answered_meanwhile_and_there_is_an_end(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()
    monkeypatch.setattr(json_schemas, "_remember", lambda text: let_go.wait(60))
    monkeypatch.setattr(json_schemas, "SECONDS", 0.05)
    with pytest.raises(BadRequestError, match="takes longer to compile than"):
        await asyncio.wait_for(compile_schemas(BODIES[0]), 30)
    let_go.set()


def test_what_forces_no_schema_has_none() -> None:
    for body in (
        {},
        {"response_format": {"type": "json_object"}},
        {"text": "a"},
        {"structured_outputs": None},
    ):
        assert [schema for schema in schemas_of(body) if schema] == []
