"""Whose mistake an error of the engine is: the client's, if the engine's own request model refuses the body.

vLLM checks a body while it reads it. Some of its checks fail on values they did not expect, and it answers
500; others it answers with a list of Python dictionaries. So where it answered such an error, the body is
read once more with the same model, and what that says becomes a 400 of one sentence. A body that the model
takes is not to blame, and the engine's answer stays. Good requests pay nothing for this.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.routing import BaseRoute

from service.errors import BadRequestError
from service.request.constraints import constraints
from service.request.endpoints import ENDPOINTS

_log = logging.getLogger(__name__)
_LONGEST = 300
_GAVE_UP = b'"Internal server error"'
"""What vLLM says if it gives up one request in the middle; a dead engine says something else."""
_CLASS_NAME = re.compile(r" or (?:an )?instance of \w+")
_TYPE_NAMES = {"str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "set", "none"}
_SAY_LEAST = ("literal_error", "model_type", "missing", "string_type")
"""Errors that say least: every other branch of a union reports one of them."""


class RequestModels:
    """The request models of the dispatched endpoints."""

    def __init__(self, engine_routes: Sequence[BaseRoute]) -> None:
        """`engine_routes` are those of vLLM's app."""
        self._models: dict[str, TypeAdapter[Any]] = {}
        for route in engine_routes:
            dependant = getattr(route, "dependant", None)
            if getattr(route, "path", None) in ENDPOINTS and dependant is not None:
                (parameter,) = dependant.body_params
                self._models[route.path] = TypeAdapter(parameter.field_info.annotation)  # type: ignore[attr-defined]

    def mistake(self, path: str, body: Mapping[str, Any], error: bytes) -> BadRequestError | None:
        """Return what is wrong with a body for the endpoint `path`, or None if it is not to blame.

        `error` is what the engine answered.
        """
        return self._refused(path, body) or _constraint(body, error)

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
        for field in body:
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


def _first(error: ValidationError) -> BadRequestError:
    """Return the error that says most, without the type names of pydantic's inside."""
    found = error.errors(include_url=False, include_input=False)
    best = min(found, key=lambda one: (one["type"] in _SAY_LEAST, -len(one["loc"])))
    cause = best.get("ctx", {}).get("error")
    steps = [step for step in best["loc"] if isinstance(step, int) or _is_field(step)]
    inside = ["messages"] if steps and isinstance(steps[0], int) else []  # the only list it reads late
    param = getattr(cause, "parameter", None) or ".".join(str(step) for step in [*inside, *steps])
    message = str(cause.args[0]) if isinstance(cause, Exception) and cause.args else best["msg"]
    message = _CLASS_NAME.sub("", message)
    where = "" if param and message.startswith(param) else f"{param or 'body'}: "
    return BadRequestError(f"{where}{message}"[:_LONGEST], param or None)


def _is_field(step: str) -> bool:
    """Return whether a step of pydantic's path is a field, and not a branch of a union."""
    return step.isidentifier() and step[:1].islower() and step not in _TYPE_NAMES
