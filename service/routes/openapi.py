"""`GET /openapi.json`: our own routes, and vLLM's where they are dispatched, with what is different here.

The schemas are those of the running engine's own routes, so they are true for its version. What is ours is
laid over them: names for `model`, refused fields, the error shape, headers, security.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from service import headers
from service.errors import CONTEXT_LENGTH
from service.request.endpoints import ENDPOINTS
from service.request.refused_fields import REFUSED

router = APIRouter()
_ERROR = "Error"
_OPEN = "/health"
"""Paths under it need no key."""
_DESCRIPTION = """One base model and its LoRA experts behind OpenAI's and Anthropic's interfaces. `model` may be
`auto` (or absent): the router chooses the expert by what is asked; an expert's name; or the base model's name.
Every answer says in its headers who gave it and why."""
_MODEL: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "default": "auto",
    "description": "`auto`: the router chooses; or one of the names that `/v1/models` lists",
}
_STATUSES = {
    "400": "The request is wrong; `param` names the field",
    "401": "No valid key (only where the service was started with keys)",
    "404": "No such model",
    "408": "The body did not come in time",
    "413": "The body is too large",
    "415": "The body is not announced as plain JSON",
    "429": "Too many requests are in flight; `retry-after` says when to come again",
    "500": "The service failed",
    "503": "The service is starting, stopping, or its engine died",
}
_OF_A_GET = ("401", "500", "503")
_HEADER_TEXTS = {
    headers.REQUEST_ID: "The client's id of the request, or one made here",
    headers.BUNDLE: "Which bundle answered: twelve hex digits",
    headers.EXPERT: "Who answered; for a list of prompts a comma list in prompt order",
    headers.CONFIDENCE: "The router's probability; for a list of prompts a comma list in prompt order",
    headers.REASON: "`routed`, `named`, `unfamiliar`, `low_confidence`, `no_gain` or `router_error`; for a list of "
    "prompts a comma list in prompt order",
    headers.ROUTER_MS: "What routing cost, in milliseconds",
}


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request) -> Response:
    """Return the document; made at the first request, on a thread, because it takes about a second."""
    state: Any = request.app.state
    if not hasattr(state, "openapi"):
        made = document(request.app.routes, state.service.engine_routes)
        state.openapi = json.dumps(made).encode()
    return Response(state.openapi, media_type="application/json")


def document(own: Sequence[BaseRoute], engines: Sequence[BaseRoute]) -> dict[str, Any]:
    """Return the document for our own routes and those of the engine's routes that are dispatched."""
    dispatched = [route for route in engines if getattr(route, "path", None) in ENDPOINTS]
    made = get_openapi(
        title="GradientSpace",
        version=version("gradientspace"),
        description=_DESCRIPTION,
        routes=[*own, *dispatched],
    )
    components = made.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _describe(path, method, operation)
            if path in ENDPOINTS:
                operation["tags"] = ["engine"]
                for schema in _request_schemas(operation, schemas):
                    _adapt(schema)
    schemas[_ERROR] = _error_schema()
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADER_TEXTS.items()
    }
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    _drop_unused(made)
    return made


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    """Give an operation the statuses, headers and security of this service."""
    decided = path in ENDPOINTS
    names = [*headers.ON_EVERY_ANSWER, *(headers.ON_EVERY_DECISION if decided else ())]
    success = {code: answer for code, answer in operation["responses"].items() if code.startswith("2")}
    if path == "/metrics":
        success["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    failures = {
        code: {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{_ERROR}"}}},
        }
        for code, text in _STATUSES.items()
        if method != "get" or code in _OF_A_GET or (code == "404" and "{" in path)
    }
    operation["responses"] = success | failures
    for code, answer in operation["responses"].items():
        # an error may come before anything was decided, so only successes promise the decision
        listed = names if code in success else headers.ON_EVERY_ANSWER
        answer["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in listed}
    if not path.startswith(_OPEN):
        operation["security"] = [{"key": []}, {}]  # no key is asked for where none was set


def _request_schemas(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterable[dict[str, Any]]:
    given = operation["requestBody"]["content"]["application/json"]["schema"]
    for schema in given.get("anyOf", [given]):
        yield schemas[schema["$ref"].rpartition("/")[2]]


def _adapt(schema: dict[str, Any]) -> None:
    """Say of a request what is different here."""
    properties = schema["properties"]
    for field in REFUSED.keys() & properties.keys():
        del properties[field]
    properties["model"] = _MODEL
    schema["required"] = [field for field in schema.get("required", ()) if field != "model"]


def _error_schema() -> dict[str, Any]:
    nullable_text = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    error = {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string", "description": "What is wrong, where, and what to do"},
            "type": {"type": "string"},
            "param": nullable_text | {"description": "The field of the request, if it is one"},
            "code": {
                "anyOf": [{"type": "integer"}, {"const": CONTEXT_LENGTH}],
                "description": "The status; of a prompt that is too long a name",
            },
        },
    }
    return {"type": "object", "required": ["error"], "properties": {"error": error}}


def _drop_unused(made: dict[str, Any]) -> None:
    """Drop the schemas that nothing of the document refers to any more."""
    schemas = made["components"]["schemas"]
    used: set[str] = set()
    waiting = [made["paths"]]
    while waiting:
        for name in _references(waiting.pop()) - used:
            used.add(name)
            waiting.append(schemas[name])
    made["components"]["schemas"] = {name: schemas[name] for name in sorted(used)}


def _references(node: Any) -> set[str]:
    prefix = "#/components/schemas/"
    if isinstance(node, dict):
        found = node.get("$ref")
        own = {found.removeprefix(prefix)} if isinstance(found, str) and found.startswith(prefix) else set()
        return own.union(*(_references(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_references(value) for value in node))
    return set()
