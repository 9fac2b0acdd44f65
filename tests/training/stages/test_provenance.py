"""The commit in a bundle is this project's, or none: never that of the repository it happens to lie in."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stand_ins.tiny_model import ROOT
from training.stages.provenance import git_commit


def _repository(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "own.txt").write_text("somebody's own\n")
    for command in (
        ("init", "-q"),
        ("add", "own.txt"),
        ("-c", "user.name=n", "-c", "user.email=e@e", "commit", "-q", "-m", "own"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def _commit_of_a_copy(root: Path) -> str:
    """Lay this project's training rooms into `root`, and ask them there."""
    for room in ("bundle", "router", "training"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from training.stages.provenance import git_commit; print(git_commit())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "."},
    )
    return done.stdout.strip()


def test_in_its_own_checkout_it_is_the_checkouts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("NOT TESTED: not a git checkout")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert git_commit() == head
    other = _repository(tmp_path / "other")
    monkeypatch.chdir(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert git_commit() == head


@pytest.mark.slow
@pytest.mark.parametrize("place", ["", ".venv/lib/python3.11/site-packages"])
def test_inside_somebodys_repository_there_is_none(tmp_path: Path, place: str) -> None:
    root = _repository(tmp_path / "own") / place
    root.mkdir(parents=True, exist_ok=True)
    assert _commit_of_a_copy(root) == "None"


def test_a_file_that_is_tracked_elsewhere_in_a_repository_has_no_commit_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that somebody checked into their own repository, in a folder of it."""
    import training.stages.provenance as module

    copy = tmp_path / "own" / "vendor" / "training" / "stages" / "provenance.py"
    repository = _repository(tmp_path / "own")
    copy.parent.mkdir(parents=True)
    copy.write_text("")
    monkeypatch.setattr(module, "__file__", str(copy))
    assert git_commit() is None  # lying there
    subprocess.run(["git", "add", "-A"], cwd=repository, check=True)
    assert git_commit() is None  # tracked there
