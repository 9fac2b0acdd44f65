"""One step of the trial: a command that has to succeed, a line that says what holds."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any


class FailedError(Exception):
    """Something did not hold; the message says what."""


def say(text: str) -> None:
    """Print one line at once."""
    print(f"== {text}", flush=True)


def run(*command: str | Path, **options: Any) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        FailedError: it failed; with the end of what it said.

    """
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **options
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        raise FailedError(f"{shlex.join(str(part) for part in command)[:200]}: {said}")
    return done.stdout
