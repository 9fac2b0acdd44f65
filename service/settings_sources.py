"""Where settings come from: flags, then GRADIENTSPACE_* variables, then a YAML file, then the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from service.errors import UsageError
from service.settings import ENV_PREFIX, SECRETS, Settings, flag_of, variable_of

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"
_ARGUMENTS = {"bundle": "argument", "engine_flags": "arguments after --"}
_OF_THE_TESTS = (f"{ENV_PREFIX}TEST_", f"{ENV_PREFIX}SHARED")  # what tests are told, no settings


@dataclass(frozen=True)
class Resolved:
    """The settings, and where each value came from."""

    settings: Settings
    origins: Mapping[str, str]
    """By the setting's name: a flag, a variable, a file, or `default`."""

    def as_yaml(self) -> str:
        """Return a settings file that gives these values, but for the secrets, which it only counts."""
        lines = []
        for name, value in self.settings.model_dump(mode="json").items():
            shown = f"{name}: {json.dumps(value)}"  # which is YAML too
            if name in SECRETS:
                shown = f"# {name}: {len(value)} hidden"
            lines.append(f"{shown}  # {self.origins[name]}")
        return "\n".join(lines)


def resolve(flags: Mapping[str, Any], config: Path | None, environ: Mapping[str, str]) -> Resolved:
    """Return the settings; a flag that is None was not given.

    Raises:
        UsageError: a name is unknown, or a value is missing or impossible, in one sentence that says where.

    """
    given = {name: value for name, value in flags.items() if value is not None}
    variables = _from_environment(environ)
    file = config or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
    listed = _from_file(file) if file else {}
    origins = {
        name: next(
            (
                origin
                for source, origin in (
                    (given, _ARGUMENTS.get(name) or flag_of(name)),
                    (variables, variable_of(name)),
                    (listed, str(file)),
                )
                if name in source
            ),
            "default",
        )
        for name in Settings.model_fields
    }
    try:
        return Resolved(Settings.model_validate(listed | variables | given), origins)
    except ValidationError as error:
        raise UsageError(_in_one_sentence(error, origins)) from None  # its text quotes values: secrets too


def _from_environment(environ: Mapping[str, str]) -> dict[str, str]:
    known = {variable_of(name): name for name in Settings.model_fields}
    mine = [
        variable
        for variable in environ
        if variable.startswith(ENV_PREFIX)
        and variable != CONFIG_VARIABLE
        and not variable.startswith(_OF_THE_TESTS)
    ]
    if any(environ[variable].startswith("tcp://") for variable in mine):
        raise UsageError(
            f"The environment has {ENV_PREFIX}PORT and others as Kubernetes makes them for a Service that is "
            "named gradientspace. Set `enableServiceLinks: false` in the pod's spec"
        )
    unknown = sorted(set(mine) - set(known))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)}: no such setting. Unset it, or use one of {', '.join(sorted(known))}"
        )
    return {known[variable]: environ[variable] for variable in mine}


def _from_file(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).splitlines()[0]
        raise UsageError(f"{file}: the settings file can't be read ({reason})") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{file}: a settings file is a mapping, `port: 8000` for example")
    unknown = sorted(str(name) for name in set(found) - set(Settings.model_fields))
    if unknown:
        raise UsageError(
            f"{file}: {', '.join(unknown)}: no such setting. Use one of {', '.join(Settings.model_fields)}"
        )
    return found


def _in_one_sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return f"Settings: {message}"
    name = str(first["loc"][0])
    if first["type"] == "missing":
        where = f"{variable_of(name)} or in the settings file"  # only `bundle` has no default
        return f"Setting {name!r} is missing. Give it as the {_ARGUMENTS[name]}, as {where}"
    return f"Setting {name!r} (from {origins[name]}): {message}"
