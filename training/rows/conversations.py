"""Lists of turns in the spellings that people publish, read as one: messages of a role and a content."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

_ROLES = {
    "system": "system",
    "developer": "developer",
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bot", "chatbot", "bard", "bing", "ai", "model"), "assistant"
    ),
    **dict.fromkeys(
        ("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"
    ),
    **dict.fromkeys(("function_call", "tool_call"), "function_call"),
}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text", "parts")
_THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
_WEIGHT_KEYS = ("weight", "train", "loss")
_PAIRS = (
    *(("input", "output"), ("prompt", "response"), ("prompt", "completion"), ("question", "answer")),
    *(("human", "assistant"), ("user", "assistant"), ("instruction", "output")),
)
# Text that holds a whole conversation: only where it begins so, and no user could have written it by chance.
_TRANSCRIPTS = (
    re.compile(r"(?:^|\n\n)(Human|Assistant): ?"),
    re.compile(r"\n?### (Human|Assistant|System): ?"),
    re.compile(r"<\|im_start\|>(system|user|assistant|tool)\n"),
)


class WrongRow(Exception):
    """Why one record is no row."""


def text_of(value: Any, name: str) -> str:
    """Return a text: a string, or the text parts of a list, joined by newlines; "" for none.

    Raises:
        WrongRow: it is anything else.

    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        value = value["parts"]
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return "\n".join(_part(part, name) for part in value)
    raise WrongRow(f"{name!r} must be text, this is {type(value).__name__}")


def _part(part: dict[str, Any], name: str) -> str:
    kind = part.get("type", "text")
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    raise WrongRow(f"{name!r} holds a part of type {kind!r}; rows are text only")


def json_of(value: Any, name: str) -> Any:
    """Return what a cell holds as JSON, or as Python prints it; anything but a string as it is.

    Raises:
        WrongRow: the text is neither.

    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise WrongRow(f"{name!r} is text that is not JSON; save such rows as JSONL or Parquet") from error


def conversation(value: Any, name: str, notes: set[str]) -> list[Message]:
    """Return a column's turns as messages: `role`, `content`, and where they have them `name`, `tool_calls`,
    `tool_call_id`, `reasoning_content` and `weight`. `notes` takes the names of what is left unread in them.

    Raises:
        WrongRow: it is no conversation.

    """
    if isinstance(value, str):
        turns = transcript(value)
        if turns is not None:
            return turns
        value = json_of(value, name) if value.lstrip()[:1] in ("[", "{") else value
    if isinstance(value, dict) and isinstance(
        value.get("role"), list
    ):  # how `datasets` 3 gave a list of structs
        value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    if not isinstance(value, list) or not value:
        raise WrongRow(
            f"{name!r} must be a list of messages, this is {'empty' if value == [] else type(value).__name__}"
        )
    if all(isinstance(turn, str) for turn in value):
        return [
            {"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(value)
        ]
    if all(isinstance(turn, dict) and not _role_key(turn) for turn in value):
        return _pairs(value, name)
    return [_message(turn, name, notes) for turn in value]


def transcript(text: str) -> list[Message] | None:
    """Return the turns of a text that holds a conversation, or None where it is none that is sure."""
    for pattern in _TRANSCRIPTS:
        start = pattern.match(text.lstrip("\n") if not text.startswith("\n\n") else text)
        if not start:
            continue
        pieces = pattern.split(text if text.startswith("\n\n") else text.lstrip("\n"))[1:]
        roles = [_ROLES[role.lower()] for role in pieces[0::2]]
        said = [turn.replace("<|im_end|>", "").strip() for turn in pieces[1::2]]
        return [{"role": role, "content": turn} for role, turn in zip(roles, said, strict=True)]
    return None


def history(value: Any, name: str, notes: set[str]) -> list[Message]:
    """Return earlier turns: pairs of a question and an answer, or messages.

    Raises:
        WrongRow: it is neither.

    """
    value = json_of(value, name)
    if isinstance(value, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return [
            {"role": role, "content": text_of(text, name)}
            for pair in value
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    return conversation(value, name, notes) if value else []


def tools_of(value: Any, name: str) -> tuple[dict[str, Any], ...]:
    """Return the tools of a row as OpenAI's form has them, also where each is only the function.

    Raises:
        WrongRow: it is no list of tools.

    """
    value = json_of(value, name)
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        raise WrongRow(f"{name!r} must be a list of tools, this is {type(value).__name__}")
    tools = []
    for tool in value:
        tool = json_of(tool, name)
        if not isinstance(tool, dict) or not ("function" in tool or "name" in tool):
            raise WrongRow(f"{name!r} must hold tools with a name or a function")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(tools)


def _role_key(turn: dict[str, Any]) -> str | None:
    return next((key for key in _ROLE_KEYS if turn.get(key) is not None), None)


def _pairs(value: Sequence[dict[str, Any]], name: str) -> list[Message]:
    messages: list[Message] = []
    for turn in value:
        pair = next((pair for pair in _PAIRS if all(isinstance(turn.get(key), str) for key in pair)), None)
        if pair is None:
            raise WrongRow(f"{name!r} must hold messages with a role and a content, this has {sorted(turn)}")
        if turn.get("system"):
            messages.append({"role": "system", "content": text_of(turn["system"], f"{name}.system")})
        messages += [
            {"role": role, "content": turn[key]}
            for role, key in zip(("user", "assistant"), pair, strict=True)
        ]
    return messages


def _message(turn: Any, name: str, notes: set[str]) -> Message:
    key = _role_key(turn) if isinstance(turn, dict) else None
    role = _ROLES.get(str(turn[key]).strip().lower()) if key else None
    if role is None:
        said = f"this has {turn[key]!r}" if key else "this has none"
        raise WrongRow(
            f"{name!r} must hold messages with a role of system, developer, user, assistant or tool; {said}"
        )
    assert key is not None
    content_key = next((each for each in _CONTENT_KEYS if turn.get(each) is not None), "content")
    content = turn.get(content_key)
    if role == "tool" and isinstance(content, dict | list) and not _all_parts(content):
        content = json.dumps(content, ensure_ascii=False)
    text = text_of(content, f"{name}.{content_key}")
    if role == "function_call":
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": _calls(json_of(text, f"{name}.{content_key}"), name),
        }
    message: Message = {"role": role, "content": text}
    if turn.get("refusal"):
        if text:
            raise WrongRow(f"{name!r} holds a message with both a content and a refusal")
        message["content"] = text_of(turn["refusal"], f"{name}.refusal")
    for wanted in ("name", "tool_call_id"):
        if turn.get(wanted) is not None:
            message[wanted] = text_of(turn[wanted], f"{name}.{wanted}")
    if turn.get("tool_calls"):
        message["tool_calls"] = _calls(json_of(turn["tool_calls"], f"{name}.tool_calls"), name)
    if turn.get("function_call"):
        message["tool_calls"] = _calls(json_of(turn["function_call"], f"{name}.function_call"), name)
    thoughts = {text_of(turn.get(each), f"{name}.{each}") for each in _THINKING_KEYS} - {""}
    if len(thoughts) > 1:
        raise WrongRow(f"{name!r} holds a message with two kinds of thinking that differ")
    if thoughts:
        message["reasoning_content"] = thoughts.pop()
    if role != "assistant" and ("tool_calls" in message or "reasoning_content" in message):
        raise WrongRow(f"{name!r} holds tool calls or thinking in a message of {role}")
    for each in _WEIGHT_KEYS:
        if turn.get(each) is not None:
            message["weight"] = weight_of(turn[each], f"{name}.{each}")
    read = {key, content_key, "refusal", "name", "tool_call_id", "tool_calls", "function_call"}
    notes.update(
        f"{name}[].{each}"
        for each, held in turn.items()
        if each not in read | {*_THINKING_KEYS, *_WEIGHT_KEYS} and held not in (None, "", [], {})
    )
    return message


def _all_parts(content: Any) -> bool:
    if isinstance(content, dict):
        return isinstance(content.get("parts"), list)
    return bool(content) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) for part in content
    )


def weight_of(value: Any, name: str) -> int:
    """Return 0 or 1.

    Raises:
        WrongRow: it is anything between or beside.

    """
    said = str(value).strip().lower()
    if said in ("0", "0.0", "false"):
        return 0
    if said in ("1", "1.0", "true", ""):
        return 1
    raise WrongRow(f"{name!r} is {value!r}: an answer is trained on (1) or not (0), nothing between")


def _calls(value: Any, name: str) -> list[dict[str, Any]]:
    calls = []
    for call in value if isinstance(value, list) else [value]:
        call = json_of(call, f"{name}.tool_calls")
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise WrongRow(f"{name!r} holds a tool call without the name of its function")
        arguments = function.get("arguments", function.get("parameters"))
        # As the engine does before it renders: templates write the arguments as JSON themselves.
        if isinstance(arguments, str) and arguments.strip():
            arguments = json_of(arguments, f"{name}.tool_calls.arguments")
        about = {"id": call["id"]} if call.get("id") else {}
        calls.append(
            about | {"type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}
        )
    return calls
