"""How the wheel is built: setuptools, on a copy in which every room stands inside the one package `gradientspace`.

In the repository the rooms stand at the top, and import each other by those names. Installed like that, `training` or
`cli` would take the place of a user's own module of that name, or the other way round. So a wheel is built from a copy
with the rooms moved to `gradientspace/` and their imports of each other renamed with them; lines keep their numbers. An
editable installation is the repository as it is: it is for work on the repository itself.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
]

PACKAGE = "gradientspace"
ROOMS = ("bundle", "router", "training", "evaluation", "service", "cli", "demo")
_BESIDE = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
_DATA = "recipes"
_DOTTED = re.compile(rf'"((?:{"|".join(ROOMS)})(?:\.\w+)+)"')  # a name of ours in a JSON file


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """As PEP 517 says."""
    there = str(Path(wheel_directory).resolve())
    with tempfile.TemporaryDirectory() as scratch:
        lay_out(Path(), Path(scratch))
        with _inside(scratch):
            return build_meta.build_wheel(there, config_settings, None)


def lay_out(source: Path, target: Path) -> None:
    """Copy the project to `target` with every room inside the package; a room that is not there is left out."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    shutil.copytree(source / PACKAGE, target / PACKAGE, ignore=ignored)
    for name in _BESIDE:
        shutil.copy(source / name, target / name)
    for name in (*ROOMS, _DATA):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / PACKAGE / name, ignore=ignored)
    for path in (target / PACKAGE).rglob("*.py"):
        path.write_text(renamed(path.read_text(encoding="utf-8"), str(path)), encoding="utf-8")
    for path in (target / PACKAGE / "service").rglob("*.json"):
        text = _DOTTED.sub(rf'"{PACKAGE}.\1"', path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")


def renamed(code: str, name: str) -> str:
    """Return the code with its imports of rooms made imports from inside the package, line by line.

    Raises:
        ValueError: an import that can't be renamed without a change of meaning.

    """
    lines = code.splitlines(keepends=True)
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _room(node.module) is not None:
            _replace(lines, node, rf"from\s+{re.escape(str(node.module))}\b", f"from {PACKAGE}.{node.module}")
        elif isinstance(node, ast.Import) and any(_room(alias.name) for alias in node.names):
            [alias, *others] = node.names
            if others or ("." in alias.name and alias.asname is None):
                raise ValueError(f"{name}:{node.lineno}: write it as `from {alias.name} import ...`")
            called = f"import {PACKAGE}.{alias.name} as {alias.asname or alias.name}"
            _replace(lines, node, r"import\s+[\w.]+(\s+as\s+\w+)?", called)
    return "".join(lines)


def _room(module: str | None) -> str | None:
    first = (module or "").partition(".")[0]
    return first if first in ROOMS else None


def _replace(lines: list[str], node: ast.stmt, old: str, new: str) -> None:
    # What stands before it on its line is code of the same bytes and characters: no room's line is otherwise.
    line = lines[node.lineno - 1]
    before, rest = line[: node.col_offset], line[node.col_offset :]
    changed, count = re.subn(rf"\A{old}", new, rest)
    if count != 1:
        raise ValueError(f"line {node.lineno}, {line.strip()!r}: an import of another form than expected")
    lines[node.lineno - 1] = before + changed


@contextmanager
def _inside(folder: str) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
