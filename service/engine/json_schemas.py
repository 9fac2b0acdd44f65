"""JSON schemas are compiled before the engine asks for it, in a thread: on the event loop they hold everybody up.

vLLM checks a schema by compiling it, wherever a request is read, and a legitimate pattern can take two seconds. What
was compiled is remembered, so vLLM finds it done; a schema that is none is remembered as the error it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any

from cachetools import LRUCache

from service.errors import BadRequestError

SECONDS = 20.0
"""ours: ten times what the largest schema takes that a request may have (`service.request.pattern_size`)."""
_REMEMBERED = 256
# One: the other cores belong to the engine.
_thread = ThreadPoolExecutor(1, thread_name_prefix="schemas")
_memory: LRUCache[str, Any] = LRUCache(_REMEMBERED)
_lock = Lock()


def schemas_of(body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the schemas that force the form of a request's answer, wherever a door has them."""
    for holder in (
        body.get("response_format"),
        _of(body, "text", "format"),
        _of(body, "output_config", "format"),
    ):
        if isinstance(holder, dict) and holder.get("type") == "json_schema":
            inner = holder.get("json_schema")
            yield inner.get("schema") if isinstance(inner, dict) else holder.get("schema")
    yield _of(body, "structured_outputs", "json")
    yield from _of_tools(body)


def _of_tools(body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what the arguments of a call have to follow: of all tools if one has to be called, else of the strict."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind == "none":
        return
    for tool in tools if isinstance(tools, list) else []:
        inner = _of({"tool": tool}, "tool", "function")
        named = inner if isinstance(inner, dict) else tool
        if isinstance(named, dict) and (kind not in (None, "auto") or named.get("strict")):
            yield named.get("parameters", named.get("input_schema"))


async def compile_schemas(body: Mapping[str, Any]) -> None:
    """Compile a request's schemas while others are answered; whether they can be compiled vLLM says.

    Raises:
        BadRequestError: one takes longer than `SECONDS`.

    """
    for schema in schemas_of(body):
        text = _text(schema)
        if text is None or _remembered_of(text) is not None:
            continue
        compiling = asyncio.get_running_loop().run_in_executor(_thread, _remember, text)
        try:
            await asyncio.wait_for(asyncio.shield(compiling), SECONDS)
        except TimeoutError:
            raise BadRequestError(
                f"The schema takes longer to compile than {SECONDS:g} seconds. Give a simpler one"
            ) from None


def remember_schemas() -> None:
    """Have whoever compiles a schema in this process find what was compiled before."""
    import xgrammar

    _compiler(), _tag_compiler()  # before they are replaced

    def remembered(schema: Any, *others: Any, **settings: Any) -> Any:
        text = _text(schema)
        if others or settings or text is None:
            return _compiler()(schema, *others, **settings)
        found = _remembered_of(text) or _remember(text)
        if isinstance(found, Exception):
            raise found
        return found

    def remembered_tag(tag: Any, *others: Any, **settings: Any) -> Any:
        schemas = list(_in_tag(json.loads(tag))) if isinstance(tag, str) and not others else []
        found = [_remembered_of(text) for text in schemas]
        for one in found:
            if isinstance(one, Exception):
                raise one
        if found and None not in found:
            return None  # vLLM only asks whether it can be compiled; the engine does so itself
        return _tag_compiler()(tag, *others, **settings)

    patched: Any = xgrammar.Grammar
    patched.from_json_schema = staticmethod(remembered)
    patched.from_structural_tag = staticmethod(remembered_tag)


@cache
def _compiler() -> Any:
    import xgrammar

    return xgrammar.Grammar.from_json_schema


@cache
def _tag_compiler() -> Any:
    import xgrammar

    return xgrammar.Grammar.from_structural_tag


def _in_tag(tag: Any) -> Iterator[str]:
    """Yield the schemas of a structural tag: the form of a call, with its arguments' schema in an envelope."""
    waiting = [tag]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if part.get("type") == "json_schema" and (text := _text(part.get("json_schema"))):
                yield text
            else:
                waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _text(schema: Any) -> str | None:
    """Return a schema as vLLM hands it on, None where it is none."""
    try:
        return json.dumps(json.loads(schema) if isinstance(schema, str) else schema) if schema else None
    except (ValueError, TypeError, RecursionError):
        return None


def _remembered_of(text: str) -> Any:
    with _lock:
        return _memory.get(text)


def _remember(text: str) -> Any:
    """Compile a schema (JSON), and keep it or the error that it gives."""
    try:
        found: Any = _compiler()(text)
    except Exception as error:  # xgrammar raises several kinds; vLLM turns each into its own
        found = error
    with _lock:
        _memory[text] = found
    return found


def _of(body: Mapping[str, Any], field: str, inside: str) -> Any:
    holder = body.get(field)
    return holder.get(inside) if isinstance(holder, dict) else None
