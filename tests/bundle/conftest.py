"""A small whole bundle, written once; tests damage copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.stand_ins.small_bundle import make_base, make_bundle


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def pristine(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, written once. Tests change copies of it (`bundle_folder`)."""
    return make_bundle(base, tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def bundle_folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))
