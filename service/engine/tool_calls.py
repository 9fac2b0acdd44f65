"""How a base model writes the call of a tool, as far as its chat template gives that away."""

from __future__ import annotations

FORCED_ONLY = "hermes"
"""Reads calls that had to be made: the engine then sees to it that they are JSON, whatever the model is used to."""

_MARKS: tuple[tuple[str, str], ...] = (
    # anchor:vllm, its page on tool calling: what a template shows or tells a model to write, and who reads that
    ("[TOOL_CALLS]", "mistral"),
    ("function<｜tool▁sep｜>", "deepseek_v3"),
    ("<｜tool▁calls▁begin｜>", "deepseek_v31"),
    ("<|tool_calls_section_begin|>", "kimi_k2"),
    ("<|tool_call_start|>", "lfm2"),
    ("<|START_ACTION|>", "cohere_command3"),
    ("<|tool_call|>", "granite"),
    ("<|tool|>", "phi4_mini_json"),
    ("<function_calls>", "olmo3"),
    ("<arg_key>", "glm45"),
    ("<function=", "qwen3_coder"),
    ("<tool_call>", "hermes"),
    ('{"name": function name, "parameters"', "llama3_json"),
)


def tool_parser(template: str, given: str | None) -> tuple[str, bool]:
    """Return vLLM's parser of calls for a chat template, and whether it knows calls that nobody forced.

    `given` is the parser that a user chose, if one did.
    """
    if given:
        return given, True
    found = (
        next((parser for mark, parser in _MARKS if mark in template), None) if "tools" in template else None
    )
    return found or FORCED_ONLY, found is not None
