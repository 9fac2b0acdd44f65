"""The Dockerfile and what it installs from."""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.stand_ins.deploy_files import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
REQUIREMENTS = ROOT / "requirements"


def pins(lock: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (REQUIREMENTS / lock).read_text(), re.M)
    return {canonicalize_name(name): version for name, version in found}


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned_by_digest_and_used_by_every_stage() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.M)
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.M)
    assert set(bases) == {"${PYTHON_IMAGE}", "service-${VARIANT}"}


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_lock_holds_what_the_project_file_asks_for(variant: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    pinned = pins(f"serve-{variant}.lock")
    for text in (*project["dependencies"], *extras["serve"], *extras[variant]):
        asked = Requirement(text)
        version = pinned.get(canonicalize_name(asked.name))
        assert version is not None, f"{text}: not locked; run requirements/lock.sh"
        assert asked.specifier.contains(version), f"{text}: locked is {version}; run requirements/lock.sh"


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_nothing_of_training_or_testing_is_installed(variant: str) -> None:
    assert not pins(f"serve-{variant}.lock").keys() & {"peft", "scikit-learn", "datasets", "pytest", "mypy"}


def test_there_is_one_torch() -> None:
    script = re.search(r"^torch_version=(\S+)$", (REQUIREMENTS / "install.sh").read_text(), re.M)
    assert script is not None
    version = script.group(1)
    assert pins("torch-cpu.lock") == {"torch": f"{version}+cpu"}
    assert pins("serve-cuda.lock")["torch"] == version


def test_nothing_else_can_reach_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert rules[0] == "*"
    allowed = {rule.removeprefix("!").rstrip("/") for rule in rules[1:] if rule.startswith("!")}
    copied = {
        part.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.M)
        for part in line.split()
    }
    assert copied == allowed


def test_the_wheel_carries_every_file_that_is_no_module() -> None:
    """The image installs a wheel, where a file that `package-data` does not name is missing."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    for room in ("bundle", "router", "service", "cli", "training", "demo"):
        for path in (ROOT / room).rglob("*.*"):
            inside = str(path.relative_to(ROOT / room))
            if path.is_file() and path.suffix not in (".py", ".pyc"):
                assert any(
                    fnmatch(inside, pattern)
                    for pattern in [*named["*"], *named.get(f"gradientspace.{room}", [])]
                ), path
