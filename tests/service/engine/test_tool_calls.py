"""The parser of calls, by what a chat template shows."""

from __future__ import annotations

import pytest

from service.engine.tool_calls import FORCED_ONLY, tool_parser

QWEN = '{% if tools %}<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>{% endif %}'
CODER = "{% if tools %}<tool_call>\n<function=example_function_name>{% endif %}"
LLAMA = '{% if tools %}Respond in the format {"name": function name, "parameters": dictionary}{% endif %}'
MISTRAL = "{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]"


@pytest.mark.parametrize(
    ("template", "parser"),
    [(QWEN, "hermes"), (CODER, "qwen3_coder"), (LLAMA, "llama3_json"), (MISTRAL, "mistral")],
)
def test_a_template_that_shows_how_calls_are_written(template: str, parser: str) -> None:
    assert tool_parser(template, None) == (parser, True)


@pytest.mark.parametrize(
    "template", ["{{ messages }}", "{% if tools %}{{ tools }}{% endif %}", "<tool_call>"]
)
def test_a_template_that_does_not(template: str) -> None:
    assert tool_parser(template, None) == (FORCED_ONLY, False)


def test_a_users_choice_comes_first() -> None:
    assert tool_parser(QWEN, "llama3_json") == ("llama3_json", True)


def test_every_parser_is_one_of_vllms() -> None:
    from vllm.tool_parsers import ToolParserManager

    from service.engine.tool_calls import _MARKS

    assert {parser for _, parser in _MARKS} <= set(ToolParserManager.list_registered())
