"""The command itself: its version, its module, its completion, and what it says where a package is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.extras import naming_the_extra
from cli.main import app

ROOT = Path(__file__).parents[2]


def _run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_the_packages() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"gradientspace {version('gradientspace')}\n")


def test_it_runs_as_a_module() -> None:
    done = _run("-m", "gradientspace", "--version")
    assert (done.returncode, done.stdout) == (0, f"gradientspace {version('gradientspace')}\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete_it(shell: str) -> None:
    asked = {"COMP_WORDS": "gradientspace pl", "COMP_CWORD": "1"} | {
        "_TYPER_COMPLETE_ARGS": "gradientspace pl",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    command = Path(sys.executable).with_name("gradientspace")
    done = subprocess.run(
        [command],
        env=os.environ | asked | {"_GRADIENTSPACE_COMPLETE": f"complete_{shell}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "plan" in done.stdout, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["train", "recipes/demo.yaml"], "torch", "gradientspace[train]"),
        (["plan", "recipes/demo.yaml"], "torch", "gradientspace[train]"),
        (["serve", "bundle"], "fastapi", "gradientspace[serve,cpu]"),
        (["route", "bundle", "x"], "onnxruntime", "gradientspace[serve,cpu]"),
    ],
)
def test_a_missing_package_names_its_extra(
    arguments: list[str], package: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an environment of the core alone: the package can't be found when the command asks for it."""
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv[1:] = {arguments!r}\n"
        "from cli.extras import naming_the_extra\nimport typer\n"
        "try:\n"
        f"    with naming_the_extra(sys.argv[1:]): import {package}\n"
        "except typer.Exit as ended: sys.exit(ended.exit_code)"
    )
    done = _run("-c", code)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert extra in done.stderr
    assert package in done.stderr


def test_a_missing_module_of_our_own_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), naming_the_extra(["train"]):
        raise ModuleNotFoundError("no", name="training.nothing")
