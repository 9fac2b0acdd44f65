"""Fixtures that every room's tests share: the demo's bundle, and where shared data lies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.manifest import Manifest
from bundle.read import Bundle, read_bundle
from service.engine.base_model import checked_base

ROOT = Path(__file__).parents[1]

# A tenth of the demo: real stages, less of each.
_SMALL = (
    "split.validation_at_least=60",
    "split.probe_at_least=96",
    "clusters.max_epochs=2",
    "clusters.min_rows=24",
)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and a real base: outside the project, so a test that needs it may be skipped."""
    folder = Path(os.environ.get("GRADIENTSPACE_SHARED", ROOT.parent / "shared"))
    if not (folder / "models" / "base-5m").is_dir():
        pytest.skip(
            f"NOT TESTED: no real data and base in {folder}; set GRADIENTSPACE_SHARED to their folder"
        )
    return folder


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real bundle: the demo's recipe on fewer rows, trained by the command line once per session.

    GRADIENTSPACE_TEST_BUNDLE names a bundle to take instead, to save the minute while working on the service.
    """
    given = os.environ.get("GRADIENTSPACE_TEST_BUNDLE")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("demo")
    rows = folder / "rows.jsonl"
    _run("-m", "demo.rows", "--per-skill", "120", "--seed", "0", "--split", "train", "--output", str(rows))
    held_out = folder / "held_out.jsonl"
    _run(
        "-m", "demo.rows", "--per-skill", "40", "--seed", "0", "--split", "routing", "--output", str(held_out)
    )
    settings = [part for setting in (*_SMALL, f"data.held_out=[{held_out}]") for part in ("--set", setting)]
    _run(
        *("-m", "cli.main", "train", "recipes/demo.yaml", "--data", str(rows)),
        *("--output", str(folder / "run"), *settings),
    )
    return folder / "run" / "bundle"


@pytest.fixture(scope="session")
def bundle(demo_bundle: Path) -> Bundle:
    return read_bundle(demo_bundle)


@pytest.fixture(scope="session")
def manifest(bundle: Bundle) -> Manifest:
    return bundle.manifest


@pytest.fixture(scope="session")
def base(bundle: Bundle) -> Path:
    return checked_base(bundle, None)


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
