"""A full disk while gradients are kept: said at once, nothing half-written, what was finished is kept."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash

from tests.stand_ins.planted_store import BY_LENGTH, Planted, file_of, fill, open_files, opened
from tests.stand_ins.tiny_model import ROOT
from training.errors import TrainingError
from training.gradients.store import StoredGradients
from training.stages.processes import World


def full(code: int) -> Any:
    def refuse(*anything: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_without_room_is_said_before_anything_is_computed(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_files()
    monkeypatch.setattr(os, "posix_fallocate", full(code))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_234_000_000))
    with pytest.raises(TrainingError) as refused:
        StoredGradients(tmp_path / "gradients", "soup", [5] * 1000, 3_000_000, World())
    message = str(refused.value)
    for part in (
        str(tmp_path),
        "needs 12.00 GB",
        "1.23 GB are free",
        "clusters.gradients=recompute",
        "--disk-budget",
    ):
        assert part in message
    assert not list(tmp_path.glob("gradients/*/*"))
    assert open_files() == before
    monkeypatch.undo()
    assert fill(opened(tmp_path)).computed == BY_LENGTH


@pytest.mark.parametrize("failing", ["pwrite", "journal"])
def test_a_disk_that_fills_up_on_the_way_keeps_what_was_finished(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(opened(tmp_path), Planted(dies_after=1))
    stored = opened(tmp_path)
    if failing == "pwrite":
        monkeypatch.setattr(os, "pwrite", full(errno.ENOSPC))
    else:
        monkeypatch.setattr(Path, "open", full(errno.ENOSPC))
    with pytest.raises(TrainingError, match=r"could not write more.*GB are free.*what was finished is kept"):
        fill(stored)
    monkeypatch.undo()
    assert fill(opened(tmp_path)).computed == BY_LENGTH[64:]


def test_other_errors_of_the_disk_are_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = opened(tmp_path)
    monkeypatch.setattr(os, "pwrite", full(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        fill(stored)


def said(folder: Path) -> str:
    """What filling says when it is refused."""
    try:
        fill(opened(folder))
    except TrainingError as error:
        return str(error)
    return "nothing"


def limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def with_little_room(folder: Path) -> str:
    limit_files(100_000)
    return said(folder)


def with_no_room_for_the_journal(folder: Path) -> str:
    """The gradients' room was taken; it is the journal that no longer fits."""
    try:
        fill(opened(folder), Planted(dies_after=1))
    except KeyboardInterrupt:
        limit_files(file_of(opened(folder), "journal.jsonl").stat().st_size + 100)
    os.pwrite = lambda file, data, offset: len(data)  # the file of gradients is larger than the limit
    return said(folder)


def on_a_full_disk(folder: Path) -> str:
    """A file system of 300 kB, in this process's own mount namespace; 660 kB don't go in."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", folder], check=False)
    if mounted.returncode != 0:
        return "no mount"
    return said(folder) + str(list(folder.glob("gradients/*/*")))


def reading_all(folder: Path) -> str:
    """Megabytes by which memory grows while 400 MB are read, a row at a time."""
    rows, d = 100, 1_000_000
    stored = StoredGradients(folder, "soup", [5] * rows, d, World())
    row = np.full(d, 0.001, dtype=np.float32)
    checksum = xxhash.xxh3_64_hexdigest(row)
    for number in range(rows):
        stored._write(number, row)
        stored._note({"rows": [number], "norm": [1.0], "share_b": [0.5], "checksums": [checksum]})
    stored.unit([0])
    before, most = resident_mb(), 0
    for number in range(rows):
        stored.unit([number])
        most = max(most, resident_mb())
    shutil.rmtree(folder)
    return str(most - before)


def resident_mb() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


APART = (with_little_room, with_no_room_for_the_journal, on_a_full_disk, reading_all)


def run_apart(folder: Path) -> None:
    """Fork a process for each of `APART`, so that no limit outlives it, and write down what it says."""
    for scenario in APART:
        child = os.fork()
        if child == 0:
            answer = scenario(folder / scenario.__name__)
            (folder / f"{scenario.__name__}.txt").write_text(answer, encoding="utf-8")
            os._exit(0)
        os.waitpid(child, 0)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a process of its own, in a mount namespace of its own if it may, ran `APART`."""
    folder = tmp_path_factory.mktemp("apart")
    code = "import sys, pathlib, tests.training.stages.test_full_disk as t; t.run_apart(pathlib.Path(sys.argv[1]))"
    prefix = ["unshare", "--mount", "--map-root-user"]
    may = shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    done = subprocess.run(
        [*(prefix if may else []), sys.executable, "-c", code, str(folder)],
        # One thread: a fork has no use of the others, and would wait for them for ever.
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def answer_of(scenario: Callable[[Path], str], apart: Path) -> str:
    return (apart / f"{scenario.__name__}.txt").read_text(encoding="utf-8")


def test_a_real_limit_on_the_files_size_is_said(apart: Path) -> None:
    answer = answer_of(with_little_room, apart)
    assert "needs 0.00 GB there" in answer
    assert "clusters.gradients=recompute" in answer
    assert not list(apart.glob("with_little_room/gradients/*/*"))


def test_a_journal_that_no_longer_fits_is_said_and_what_was_finished_is_kept(apart: Path) -> None:
    assert "could not write more" in answer_of(with_no_room_for_the_journal, apart)
    assert opened(apart / "with_no_room_for_the_journal").missing == BY_LENGTH[64:]


def test_a_really_full_disk_is_said_and_left_clean(apart: Path) -> None:
    answer = answer_of(on_a_full_disk, apart)
    if answer == "no mount":
        pytest.skip("NOT TESTED: a really full disk; this user may not mount one")
    assert answer.startswith(f"The disk of {apart / 'on_a_full_disk' / 'gradients'}")
    assert "is full: keeping gradients on disk needs 0.00 GB there, 0.00 GB are free" in answer
    assert answer.endswith("[]")


def test_rows_that_were_read_do_not_stay_in_memory(apart: Path) -> None:
    assert int(answer_of(reading_all, apart)) < 30
