"""Fields of requests that this service refuses by name, each with the reason.

The engine would ignore most of them silently, and a client would believe that it got what it asked for;
the others would make the engine keep state, fetch something, or answer a prompt that was not routed.
A field that is null, false or empty asks for nothing: it is taken out and the request goes on.
"""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

from service.errors import BadRequestError
from service.request.constraints import check_constraints
from service.request.content import check_text_only
from service.request.conversation import check_conversation
from service.request.endpoints import Endpoint
from service.request.json_body import check_content_type, parse_object
from service.request.normal_form import in_normal_form, without_nulls

_STATELESS = "this service keeps no state: send the whole conversation with every request"
_STORES_NOTHING = "this service stores no answers: leave it out or send false"
_ADAPTERS = "no request loads an adapter: name one of the experts in `model`"
_ENGINE = "it is for several engines that work together, and here is one"
_TEXT_ONLY = "this service takes and gives text only"
_TOOLS = "it was replaced by `tools` and `tool_choice`"
_CONSTRAINTS = "the engine would ignore it: use `response_format` or `structured_outputs`"
_NOTHING_OUTSIDE = "this service reaches nothing outside: run the tool yourself and send its result"

REFUSED: dict[str, str] = {
    # they would need state
    "store": _STORES_NOTHING,
    "background": _STORES_NOTHING,
    "previous_response_id": _STATELESS,
    "previous_input_messages": _STATELESS,
    "conversation": _STATELESS,
    "container": _STATELESS,
    # no adapter comes from a client
    "lora_request": _ADAPTERS,
    "lora_path": _ADAPTERS,
    "lora_name": _ADAPTERS,
    "lora_int_id": _ADAPTERS,
    "lora_adapter": _ADAPTERS,
    "adapter_id": _ADAPTERS,
    "adapter_source": _ADAPTERS,
    # the engine would answer another prompt than the routed one, or be told how to do its work
    "prompt_embeds": "it can't be routed: send the prompt as text or token ids",
    "kv_transfer_params": _ENGINE,
    "ec_transfer_params": _ENGINE,
    "vllm_xargs": "no extension that would read it runs here",
    "priority": "no request goes before another",
    "chat_template": "the bundle's chat template is the one that its experts were trained with",
    # text only, and nothing is fetched
    "media_io_kwargs": _TEXT_ONLY,
    "mm_processor_kwargs": _TEXT_ONLY,
    "audio": _TEXT_ONLY,
    "web_search_options": _NOTHING_OUTSIDE,
    "mcp_servers": _NOTHING_OUTSIDE,
    # what the engine no longer knows
    "functions": _TOOLS,
    "function_call": _TOOLS,
    "guided_json": _CONSTRAINTS,
    "guided_regex": _CONSTRAINTS,
    "guided_choice": _CONSTRAINTS,
    "guided_grammar": _CONSTRAINTS,
    "guided_decoding_backend": _CONSTRAINTS,
    "guided_whitespace_pattern": _CONSTRAINTS,
}


def accepted_body(endpoint: Endpoint, scope: Scope, raw: bytes) -> dict[str, Any]:
    """Return the body of a request to `endpoint`.

    Raises:
        UnsupportedMediaTypeError: it is not announced as plain JSON.
        BadRequestError: it is no JSON object, asks for what is refused, or carries more than text.

    """
    check_content_type(scope)
    body = parse_object(raw)
    if b"null" in raw:
        body = without_nulls(body)
    body = in_normal_form(endpoint, without_refused_fields(endpoint, body))
    check_conversation(endpoint, body)
    check_text_only(body)
    check_constraints(body)
    return body


def without_refused_fields(endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
    """Return the body less the refused fields that ask for nothing.

    Raises:
        BadRequestError: a field asks for something that this service does not do.

    """
    for field in REFUSED.keys() & body.keys():
        if body[field]:
            raise BadRequestError(f"{field} is not taken here: {REFUSED[field]}", field)
    kept = {field: value for field, value in body.items() if field not in REFUSED}
    if body.get("modalities") not in (None, [], ["text"]):
        raise BadRequestError(f"modalities is not taken here: {_TEXT_ONLY}", "modalities")
    if body.get("best_of") not in (None, 0, 1, body.get("n") or 1):
        raise BadRequestError("best_of is not taken here: ask for n answers and choose", "best_of")
    _check_template_arguments(body.get("chat_template_kwargs"))
    if endpoint.reads == "input":
        _check_response(body)
        kept["store"] = False  # the engine's own default is true
    elif endpoint.path.startswith("/v1/messages"):
        _check_tools(body, ("custom",))
    return kept


def _check_template_arguments(given: object) -> None:
    """Check that a client sets the template's own switches, and not what the template and the tokenizer are."""
    arguments = given if isinstance(given, dict) else {}
    for name, value in arguments.items():
        field = f"chat_template_kwargs.{name}"
        if name == "chat_template" and value:
            raise BadRequestError(f"{field} is not taken here: {REFUSED['chat_template']}", field)
        # bos_token, eos_token, ...: the engine would render with them in the place of the tokenizer's own.
        if name.endswith(("_token", "_tokens")) or name in ("messages", "conversation"):
            raise BadRequestError(
                f"{field} is not taken here: the experts were trained with the base's own", field
            )


def _check_response(body: dict[str, Any]) -> None:
    """Check what only `/v1/responses` has."""
    if body.get("prompt"):
        raise BadRequestError(f"prompt is not taken here: {_STATELESS}", "prompt")
    items = body["input"] if isinstance(body.get("input"), list) else []
    for place, item in enumerate(items):
        if isinstance(item, dict) and item.get("type") == "item_reference":
            raise BadRequestError(f"An item_reference is not taken here: {_STATELESS}", f"input.{place}")
    _check_tools(body, ("function", "custom", "namespace"))


def _check_tools(body: dict[str, Any], kinds: tuple[str, ...]) -> None:
    """Check that every tool is one that the client runs itself."""
    tools = body["tools"] if isinstance(body.get("tools"), list) else []
    for place, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in kinds:
            raise BadRequestError(
                f"A tool of type {kind[:40]!r} is not taken here: {_NOTHING_OUTSIDE}", f"tools.{place}"
            )
