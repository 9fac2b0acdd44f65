"""Whose mistake an error of the engine is: the client's, if the engine's own request model refuses the body.

vLLM checks a body while it reads it. Some of its checks fail on values they did not expect, and it answers
500; others it answers with a list of Python dictionaries. So where it answered such an error, the body is
read once more with the same model, and what that says becomes a 400 of one sentence. A body that the model
takes is not to blame, and the engine's answer stays. Good requests pay nothing for this.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.routing import BaseRoute

from service.engine.item_check import MAX_FIELDS, check_items
from service.errors import CONTEXT_LENGTH, BadRequestError, ContextLengthError, reshaped
from service.request.constraints import constraints
from service.request.endpoints import ENDPOINTS, Endpoint

_log = logging.getLogger(__name__)
_LONGEST = 300
_GAVE_UP = b'"Internal server error"'
"""What vLLM says if it gives up one request in the middle; a dead engine says something else."""
_OF_GRAMMARS = ("Grammar error", "Failed to", "Invalid grammar", "Invalid JSON schema", "Unimplemented keys")
_ALREADY_STARTED = "Caught handled exception, but response already started"
"""What Starlette raises from an error that it would have answered, had no stream begun."""
_CLASS_NAME = re.compile(r" or (?:an )?instance of \w+")
_TYPE_NAMES = {"str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set", "none"}
_EXPLAINING_SECONDS = 0.1  # ours: others are not answered meanwhile
_PIECE = 64
_LISTS = ("messages", "input", "tools", "system")
_SAY_LEAST = ("literal_error", "model_type", "missing", "string_type")
"""Errors that say least: every other branch of a union reports one of them."""


class RequestModels:
    """The request models of the dispatched endpoints."""

    def __init__(self, engine_routes: Sequence[BaseRoute]) -> None:
        """`engine_routes` are those of vLLM's app."""
        self._models: dict[str, TypeAdapter[Any]] = {}
        self._lists: dict[tuple[str, bool], dict[str, TypeAdapter[Any]]] = {}
        self._values: dict[tuple[str, bool], dict[str, TypeAdapter[Any]]] = {}
        for route in engine_routes:
            dependant = getattr(route, "dependant", None)
            if getattr(route, "path", None) in ENDPOINTS and dependant is not None:
                (parameter,) = dependant.body_params
                annotation = parameter.field_info.annotation
                self._models[route.path] = TypeAdapter(annotation)  # type: ignore[attr-defined]
                for model in get_args(annotation) or (annotation,):
                    key = (route.path, "messages" in model.model_fields)  # type: ignore[attr-defined]
                    self._values[key] = _plain_values(model)
                    self._lists[key] = {
                        name: TypeAdapter(model.model_fields[name].annotation)  # type: ignore[attr-defined]
                        for name in _LISTS
                        if name in model.model_fields  # type: ignore[attr-defined]
                    }

    def coerced(self, endpoint: Endpoint, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body with the values that the engine reads: a number from "5", no from "false".

        Whoever looks at a field after this, a limit for example, sees what the engine will use. Conversations,
        tools and other objects are left as they are.

        Raises:
            BadRequestError: the engine can't read a value.

        """
        values = self._values.get((endpoint.path, "messages" in body)) or self._values.get(
            (endpoint.path, "messages" not in body), {}
        )
        read = dict(body)
        for name, adapter in values.items():
            if name not in body:
                continue
            try:
                _check_pieces(adapter, body[name])
                read[name] = adapter.validate_python(body[name])
            except ValidationError as error:
                raise _first(error, name) from error
            except Exception as error:
                if isinstance(parameter := getattr(error, "parameter", None), str):
                    raise BadRequestError(str(error.args[0]) if error.args else name, parameter) from error
                raise BadRequestError(f"{name}: the engine can't read this value", name) from error
        return read

    async def check_items(self, endpoint: Endpoint, body: dict[str, Any]) -> None:
        """Let a body through that the engine can read, or can explain in no time.

        Raises:
            BadRequestError: it has too many fields, or a long list with several mistakes.

        """
        if len(body) > MAX_FIELDS:
            raise BadRequestError(f"The request has {len(body)} fields; the limit is {MAX_FIELDS}")
        model = self._models.get(endpoint.path)
        lists = self._lists.get((endpoint.path, "messages" in body)) or self._lists.get(
            (endpoint.path, "messages" not in body), {}
        )
        error = None if model is None else await check_items(model, lists, body)
        if isinstance(error, ValidationError):
            raise _first(error) from error
        if error is not None:
            raise BadRequestError(
                "The engine can't read an item of this request; see /openapi.json"
            ) from error

    def mistake(self, endpoint: Endpoint, body: Mapping[str, Any], error: bytes) -> BadRequestError | None:
        """Return what is wrong with a body for the endpoint, or None if it is not to blame.

        `error` is what the engine answered.
        """
        if CONTEXT_LENGTH.encode() in error:  # `context_length` says it, and knows nothing of fields
            return ContextLengthError(reshaped(400, error)["error"]["message"], _prompt_field(endpoint, body))
        return self._refused(endpoint.path, body) or _constraint(body, error) or _named(endpoint, body, error)

    def answer_to(self, error: Exception) -> tuple[int, bytes] | None:
        """Return status and body that vLLM answers an exception with, None: it knows nothing of it."""
        while isinstance(error, ExceptionGroup) or str(error).startswith(_ALREADY_STARTED):
            inner = error.exceptions[0] if isinstance(error, ExceptionGroup) else error.__cause__
            if not isinstance(inner, Exception):
                break
            error = inner
        if not self._models:
            return None  # no vLLM is here
        from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

        answer = create_error_response(error)
        return answer.error.code, answer.model_dump_json().encode()

    def _refused(self, path: str, body: Mapping[str, Any]) -> BadRequestError | None:
        model = self._models.get(path)
        if model is None:
            return None
        try:
            model.validate_python(dict(body))
        except ValidationError as error:
            return _first(error)
        except Exception as error:
            if hasattr(error, "parameter"):
                return None  # a check that knew what it was doing: the engine has said it well
            _log.info("The request model of %s failed", path, exc_info=True)
            field = self._culprit(model, body)
            where = f"{field}: " if field else ""
            return BadRequestError(f"{where}the engine can't read this value; see /openapi.json", field)
        return None

    def _culprit(self, model: TypeAdapter[Any], body: Mapping[str, Any]) -> str | None:
        """Return the field without which the model does not fail in an unexpected way."""
        deadline = time.monotonic() + _EXPLAINING_SECONDS
        for field in body:
            if time.monotonic() > deadline:
                return None
            try:
                model.validate_python({name: value for name, value in body.items() if name != field})
            except ValidationError:
                return field
            except Exception:  # another field's, or needs both
                continue
            return field
        return None


def _constraint(body: Mapping[str, Any], error: bytes) -> BadRequestError | None:
    """Blame a constraint of the answer's form, where the engine gave up while it followed one."""
    fields = list(constraints(body))
    if not fields or _GAVE_UP not in error:
        return None
    return BadRequestError(
        f"{fields[0]}: the engine can't follow this; is it a loop, or impossible?", fields[0]
    )


def _check_pieces(adapter: TypeAdapter[Any], value: Any) -> None:
    """Raise ValidationError of the first piece of a long value that has mistakes; its length is not a piece's."""
    for piece in _pieces(value):
        try:
            adapter.validate_python(piece)
        except ValidationError as error:
            if any(one["type"] in ("too_long", "too_short") for one in error.errors(include_input=False)):
                return
            raise


def _pieces(value: Any) -> Iterator[Any]:
    """Yield a long list or map of plain values in pieces of which all mistakes can be listed."""
    if isinstance(value, dict) and len(value) > _PIECE:
        items = list(value.items())
        yield from (dict(items[start : start + _PIECE]) for start in range(0, len(items), _PIECE))
    elif isinstance(value, list):
        if len(value) > _PIECE:
            yield from (value[start : start + _PIECE] for start in range(0, len(value), _PIECE))
        for inner in value:
            if isinstance(inner, list) and len(inner) > _PIECE:
                yield from ([piece] for piece in _pieces(inner))


def _plain_values(model: type[BaseModel]) -> dict[str, TypeAdapter[Any]]:
    """Return the fields of a model that hold numbers, texts, truth values, or lists and maps of these."""
    return {
        name: TypeAdapter(Annotated[field.annotation, *field.metadata, None])  # type: ignore[arg-type]
        for name, field in model.model_fields.items()
        if _is_plain(field.annotation)
    }


def _is_plain(annotation: Any) -> bool:
    if annotation in (str, int, float, bool, type(None)) or get_origin(annotation) is Literal:
        return True
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        return _is_plain(inner[0])
    return bool(inner) and all(map(_is_plain, inner))


def _prompt_field(endpoint: Endpoint, body: Mapping[str, Any]) -> str:
    if endpoint.reads == "prompt_or_messages":
        return "messages" if "messages" in body else "prompt"
    return endpoint.reads


def _named(endpoint: Endpoint, body: Mapping[str, Any], error: bytes) -> BadRequestError | None:
    """Return a 400 of the engine with the field that is wrong, where it names none or another."""
    shaped = reshaped(400, error)["error"]
    message, param = shaped["message"], shaped["param"]
    if f'"code":{HTTPStatus.BAD_REQUEST}' not in error.decode().replace(" ", ""):
        return None
    if param == "logprobs" and "top_logprobs" in body:
        return BadRequestError(message, "top_logprobs")
    if param in body:
        return None
    first = re.match(r"\W*(\w+)", message)
    if first is not None and first[1] in body:
        return BadRequestError(message, first[1])
    if message.startswith(_OF_GRAMMARS) and (fields := list(constraints(body))):
        return BadRequestError(message, fields[0])
    if message.startswith("Token id "):
        return BadRequestError(message, _prompt_field(endpoint, body))
    return None


def _first(error: ValidationError, field: str = "") -> BadRequestError:
    """Return the error that says most, without the type names of pydantic's inside; `field` holds what was read."""
    found = error.errors(include_url=False, include_input=False)
    best = min(found, key=lambda one: (one["type"] in _SAY_LEAST, -len(one["loc"])))
    cause = best.get("ctx", {}).get("error")
    steps = [step for step in best["loc"] if isinstance(step, int) or _is_field(step)]
    # the only list it reads late
    inside = ["messages"] if steps and isinstance(steps[0], int) else []
    param = field or getattr(cause, "parameter", None) or ".".join(str(step) for step in [*inside, *steps])
    message = str(cause.args[0]) if isinstance(cause, Exception) and cause.args else best["msg"]
    message = _CLASS_NAME.sub("", message)
    where = "" if param and message.startswith(param) else f"{param or 'body'}: "
    return BadRequestError(f"{where}{message}"[:_LONGEST], param or None)


def _is_field(step: str) -> bool:
    """Return whether a step of pydantic's path is a field, and not a branch of a union."""
    return step.isidentifier() and step[:1].islower() and step not in _TYPE_NAMES
