"""What every room's tests share: who runs what, the demo's bundle, and where shared data lies."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bundle.manifest import Manifest
from bundle.read import Bundle, read_bundle
from service.engine.base_model import checked_base
from tests.stand_ins.made_once import MadeOnce

if TYPE_CHECKING:  # seconds of imports, which the tests of a room that trains nothing need not wait for
    from tests.stand_ins.tiny_line import TinyRun
    from training.run import Run

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
# The order in which the two workers of `make test` take up the files: what takes long comes first.
ENGINE = TESTS / "served"
LONG_ROOMS = (ENGINE, TESTS / "training", TESTS / "evaluation")

# A tenth of the demo: real stages, less of each. Every expert answers, as what so few rows show of them is chance, and
# each has trained: what keeps its best may keep what all of them started from.
_SMALL = (
    "router.gate=off",
    "experts.shared=0.25",
    "split.validation_at_least=60",
    "split.probe_at_least=96",
    "clusters.max_epochs=2",
    "clusters.min_rows=24",
)


def pytest_configure() -> None:
    """One thread for each process, as nothing here is large: two workers with two threads each hinder each other."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the rooms first that take long, so that neither worker ends with one of them."""
    items.sort(key=lambda item: _turn(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Deal out to the workers of `make test`: all that needs the one engine as one piece, else file by file.

    By place, as xdist's own groups (`--dist loadgroup`, 3.8) have no effect on pytest 9.2's node ids.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "engine" if ENGINE in (ROOT / file).parents else file

    return ByPlace(config, log)


def pytest_collection_finish() -> None:
    """Every stage collects garbage when it ends; what is imported by now stays and need not be looked at each time."""
    gc.collect()
    gc.freeze()


def _turn(path: Path) -> int:
    return next((turn for turn, room in enumerate(LONG_ROOMS) if room in path.parents), len(LONG_ROOMS))


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> MadeOnce:
    """Folders that all workers of this run share."""
    root = tmp_path_factory.getbasetemp()
    # With xdist, each worker's temporary files lie in a folder of its own below the run's.
    return MadeOnce(root.parent if "PYTEST_XDIST_WORKER" in os.environ else root)


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
def first(made_once: MadeOnce) -> TinyRun:
    """The finished tiny run; who changes it takes a copy."""
    from tests.stand_ins.tiny_line import TinyRun, finish_run

    return TinyRun.read(made_once("tiny-run", finish_run))


@pytest.fixture(scope="session")
def smaller(made_once: MadeOnce) -> TinyRun:
    """One on fewer rows, as the evidence trains many experts on them."""
    from tests.stand_ins.tiny_line import SMALLER, TinyRun, finish_run

    return TinyRun.read(made_once("smaller-tiny-run", lambda folder: finish_run(folder, **SMALLER)))


@pytest.fixture(scope="session")
def tiny_run(smaller: TinyRun) -> Run:
    """The smaller run, as the code reads it back."""
    from tests.stand_ins.tiny_comparison import silent
    from training.run import finished_run

    return finished_run(smaller.folder, silent())


@pytest.fixture(scope="session")
def demo_bundle(made_once: MadeOnce) -> Path:
    """A real bundle: the demo's recipe on fewer rows, trained by the command line once per run of the tests.

    GRADIENTSPACE_TEST_BUNDLE names a bundle to take instead, to save the minute while working on the service.
    """
    given = os.environ.get("GRADIENTSPACE_TEST_BUNDLE")
    if given:
        return Path(given)
    return made_once("demo", _train_demo) / "run" / "bundle"


@pytest.fixture(scope="session")
def bundle(demo_bundle: Path) -> Bundle:
    return read_bundle(demo_bundle)


@pytest.fixture(scope="session")
def manifest(bundle: Bundle) -> Manifest:
    return bundle.manifest


@pytest.fixture(scope="session")
def base(bundle: Bundle) -> Path:
    return checked_base(bundle, None)


def _train_demo(folder: Path) -> None:
    rows, held_out = folder / "rows.jsonl", folder / "held_out.jsonl"
    made = (("train", "120", rows), ("routing", "40", held_out))
    for split, per_skill, file in made:
        options = ("--per-skill", per_skill, "--seed", "0", "--split", split, "--output", str(file))
        _run("-m", "demo.rows", *options)
    settings = [part for setting in (*_SMALL, f"data.held_out=[{held_out}]") for part in ("--set", setting)]
    _run(
        *("-m", "cli.main", "train", "recipes/demo.yaml", "--data", str(rows)),
        *("--output", str(folder / "run"), *settings),
    )


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
