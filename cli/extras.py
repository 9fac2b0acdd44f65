"""What to install where a command's packages are missing: the name of the extra, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cli.fail import fail

# Which extras a command's packages come with, as pyproject.toml names them.
_TRAIN, _SERVE = "train", "serve,cpu"
_EXTRAS = {
    **dict.fromkeys(("train", "pack", "plan", "diagnose", "push", "evaluate", "evidence"), _TRAIN),
    **dict.fromkeys(("serve", "route", "inspect"), _SERVE),
}
_ROOMS = {"bundle", "router", "training", "evaluation", "service", "cli", "demo", "gradientspace"}


@contextmanager
def naming_the_extra(arguments: list[str]) -> Iterator[None]:
    """End with one sentence where a package is missing that the command in `arguments` needs."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        command = next((argument for argument in arguments if argument in _EXTRAS), None)
        if command is None or not package or package in _ROOMS:
            raise  # a fault of ours
        extra = _EXTRAS[command]
        on_a_gpu = " (or [serve,cuda], for a GPU)" if extra == _SERVE else ""
        fail(
            f"gradientspace {command} needs the package {package}, which is not installed. "
            f'Install what it runs with: pip install "gradientspace[{extra}]"{on_a_gpu}'
        )
