"""`gradientspace serve`: answer with a bundle's experts behind one OpenAI-compatible port."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from pydantic_core import PydanticUndefined

from cli.fail import fail
from service.settings import SECRETS, Settings, flag_of


def serve(config: Path | None, print_config: bool, **flags: Any) -> None:
    """Serve a bundle.

    Every option can also be set as GRADIENTSPACE_<NAME> or in a settings file: a flag comes before a
    variable, a variable before the file. API keys have no flag, because a command line can be read by others.
    """
    from bundle.errors import BundleError
    from service.errors import UsageError
    from service.serve import run
    from service.settings import resolve

    flags["engine_flags"] = tuple(flags["engine_flags"] or ()) or None
    try:
        resolved = resolve(flags, config, os.environ)
        if print_config:
            typer.echo(resolved.as_yaml())
            return
        code = run(resolved.settings)
    except (BundleError, UsageError) as error:
        fail(str(error))
    raise typer.Exit(code)


def _parameters() -> list[inspect.Parameter]:
    """Return the command's parameters: one for each setting that may stand on a command line."""
    bundle = typer.Argument(help=Settings.model_fields["bundle"].description, show_default=False)
    engine_flags = typer.Argument(
        help="After `--`: flags for vLLM, e.g. `-- --max-model-len 4096`.", show_default=False
    )
    file = typer.Option("--config", help="A settings file (YAML).", show_default=False)
    printing = typer.Option("--print-config", help="Say what would be set, and where it comes from.")
    annotated: dict[str, Any] = {
        "bundle": Annotated[Path | None, bundle],
        "engine_flags": Annotated[list[str] | None, engine_flags],
        "config": Annotated[Path | None, file],
    }
    for name in Settings.model_fields:
        if name not in annotated and name not in SECRETS:
            annotated[name] = _option(name)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        *(
            inspect.Parameter(name, keyword, default=None, annotation=kind)
            for name, kind in annotated.items()
        ),
        inspect.Parameter("print_config", keyword, default=False, annotation=Annotated[bool, printing]),
    ]


def _option(name: str) -> Any:
    """Return the annotation of a setting's option; its default is left to the settings class."""
    field = Settings.model_fields[name]
    default = "" if field.default in (None, (), PydanticUndefined) else f" (default: {field.default})"
    flag = flag_of(name)
    declared = f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag
    option = typer.Option(declared, help=f"{field.description}{default}", show_default=False)
    kind = str if get_origin(field.annotation) is tuple else field.annotation  # the settings split it
    return Annotated[kind | None, option]  # type: ignore[operator]


_DECLARED = _parameters()
serve.__signature__ = inspect.Signature(_DECLARED)  # type: ignore[attr-defined]
serve.__annotations__ = {parameter.name: parameter.annotation for parameter in _DECLARED}
