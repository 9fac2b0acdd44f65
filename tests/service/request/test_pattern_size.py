"""What a pattern means is counted, not how it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from service.errors import BadRequestError
from service.request.constraints import MAX_BAD_WORDS, check_constraints
from service.request.pattern_size import MAX_POSITIONS, positions


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("^a$", 1),
        ("[a-z]{1,5000}", 5000),
        (r"\w{1,10000}", 20000),
        ("a{7}", 7),
        ("a{7,}", 7),
        ("a{,7}", 7),
        ("(ab|c){10}", 30),
        ("((a{10}){10}){10}", 1000),
        ("x(a{9999}", 10000),
        ("a*b+c?", 3),
        ("[]a{9}]{4}", 4),
        ("[^a]{10}", 30),
        (".{10}", 30),
        ("a{9}{9}", 81),
        ("a{b}", 4),
        ("[a", 1),
        ("a)", 1),
        ("\\", 1),
    ],
)
def test_positions(pattern: str, size: int) -> None:
    assert positions(pattern) == size


def schema(pattern: str) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"anyOf": [{"type": "string", "pattern": pattern}]}}}


@pytest.mark.parametrize(
    ("field", "body"),
    [
        (
            "response_format",
            lambda s: {"response_format": {"type": "json_schema", "json_schema": {"schema": s}}},
        ),
        ("structured_outputs", lambda s: {"structured_outputs": {"json": s}}),
        ("structured_outputs", lambda s: {"structured_outputs": {"json": json.dumps(s)}}),
        ("text", lambda s: {"text": {"format": {"type": "json_schema", "schema": s}}}),
        ("tools", lambda s: {"tool_choice": "required", "tools": [{"function": {"parameters": s}}]}),
    ],
)
def test_a_small_pattern_of_a_large_automaton_is_refused_wherever_it_stands(field: str, body: Any) -> None:
    check_constraints(body(schema("^[a-z]{1,5000}$")))
    for pattern in (r"^\w{1,10000}$", "(((a{99}){99}){99}){99}", "[a-z]{1,2500}|[a-z]{1,2501}"):
        with pytest.raises(BadRequestError, match=f"the limit is {MAX_POSITIONS:,}") as caught:
            check_constraints(body(schema(pattern)))
        assert caught.value.param == field


def test_bad_words_are_bounded() -> None:
    check_constraints({"bad_words": ["word"] * 1000})
    for words in (["x" * (MAX_BAD_WORDS + 1)], [""] * MAX_BAD_WORDS):
        with pytest.raises(BadRequestError, match="bad_words"):
            check_constraints({"bad_words": words})
