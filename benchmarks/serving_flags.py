"""The flags with which vLLM's own server is built as the service builds its engine: from the same code, checked.

Imports vLLM, so the benchmark calls it in a process of its own and stays light.
"""

from __future__ import annotations

import json
import os
from argparse import Action, ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from bundle.read import read_bundle
from service.engine.arguments import engine_args
from service.engine.base_model import checked_base

OWN_ARGUMENTS = ("given_tool_call_parser", "given_tool_strict_level")
"""What the service notes for itself among the engine's arguments; vLLM has no such ones."""


def vllm_flags(bundle_folder: Path, service_flags: Sequence[str]) -> list[str]:
    """Return vLLM's command line for the bundle; `service_flags` are what the service gets after `--`.

    Raises:
        ValueError: the line does not lead vLLM's own parser to every argument of the service.

    """
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    bundle = read_bundle(bundle_folder)
    wanted = engine_args(bundle, checked_base(bundle, None), service_flags)
    parser = make_arg_parser(FlexibleArgumentParser())
    line = command_line(parser, wanted)
    parsed = parser.parse_args(line)
    validate_parsed_serve_args(parsed)
    ours = {name: value for name, value in vars(wanted).items() if name not in OWN_ARGUMENTS}
    unequal = differences(ours, vars(parsed))
    if unequal:
        raise ValueError("vLLM's own server would not get the service's arguments: " + "; ".join(unequal))
    return line


def command_line(parser: ArgumentParser, wanted: Namespace) -> list[str]:
    """Return the flags for all of `wanted` that is not the parser's default."""
    line: list[str] = []
    for action in parser._actions:
        if action.option_strings and hasattr(wanted, action.dest):  # --help has no value
            value = getattr(wanted, action.dest)
            if value != parser.get_default(action.dest):
                line += _flag(action, value)
    return line


def _flag(action: Action, value: Any) -> list[str]:
    name = max((option for option in action.option_strings if not option.startswith("--no-")), key=len)
    if isinstance(action, BooleanOptionalAction):
        return [name if value else f"--no-{name.removeprefix('--')}"]
    if action.nargs == 0:
        return [name]
    if isinstance(value, list):
        return [name, *map(_text, value)]
    return [name, _text(value)]


def _text(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):  # vLLM's record of an adapter
        return json.dumps(asdict(value))
    return str(value)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return one line for each name whose values differ; nothing is left out because one side lacks it."""
    missing = "(nothing)"
    return [
        f"{name}: the service has {ours.get(name, missing)!r}, vLLM's server {theirs.get(name, missing)!r}"
        for name in sorted({*ours, *theirs})
        if ours.get(name, missing) != theirs.get(name, missing)
    ]
