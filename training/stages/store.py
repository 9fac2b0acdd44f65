"""Stages remember what they made: a rerun skips what is done, and a kill loses the stage under way, no more.

With several processes the run folder is theirs together (across hosts: a file system that all of them see). A
stage is either the work of all at once, or dealt out: each job is one process's work.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.progress import Narrator
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

_RECORD = "stage.json"
_FORM = 2  # of what stages write: raise it with any change there, and no older stage passes for one of today
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")

Work = Callable[[Path], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """What a stage is called and what it depends on: enough to know whether it is done."""

    name: str
    title: str
    depends_on: dict[str, Any]

    @property
    def digest(self) -> str:
        """Of all that the stage depends on."""
        canonical = json.dumps([_FORM, self.name, self.depends_on], sort_keys=True, default=str)
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class StageResult:
    """A finished stage: its folder, the digest of all it depended on, its facts, what it took."""

    folder: Path
    digest: str
    facts: dict[str, Any]
    seconds: float
    peak_memory_mb: int
    kept: bool


class StageStore:
    """The folder of a run's stages."""

    def __init__(self, folder: Path, narrator: Narrator, world: World) -> None:
        """Use `folder`, made if it is not there."""
        self.folder = folder
        self.narrator = narrator
        self.world = world
        self.results: dict[str, StageResult] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, stage: Stage, work: Work, before: Callable[[], None] | None = None) -> StageResult:
        """Do a stage, all processes together, unless a finished one depended on exactly the same.

        `before` is called first if there is something to do; its time and memory are not the stage's.
        `work` fills the folder it is given and returns facts (JSON) about it. The first process's folder is
        renamed to its place after that, so a stage is there whole or not at all; the others' come to nothing.
        """
        result = self.world.from_first(self.kept(stage))
        if result is None:
            if before is not None:
                before()
            self.narrator.title(stage.title)
            if self.world.is_first:
                self._do(stage, work)
            else:
                with tempfile.TemporaryDirectory() as scratch:
                    work(Path(scratch))
        return self._note(stage, result)

    def deal_out(self, jobs: Sequence[tuple[Stage, Work]]) -> list[StageResult]:
        """Do these stages, one process each, process after process; all wait until the last is done."""
        kept = [self.world.from_first(self.kept(stage)) for stage, _ in jobs]
        waiting = [job for job, result in zip(jobs, kept, strict=True) if result is None]
        for number, (stage, work) in enumerate(waiting):
            if number % self.world.size == self.world.rank:
                self.narrator.title(stage.title)
                self._do(stage, work)
        self.world.gather(None)
        return [self._note(stage, result) for (stage, _), result in zip(jobs, kept, strict=True)]

    def kept(self, stage: Stage) -> StageResult | None:
        """Return what an earlier run left of this very stage, if it left it whole."""
        result = read_result(self.folder / stage.name)
        return result if result is not None and result.digest == stage.digest else None

    def forget(self, stage: Stage) -> None:
        """Let the stage be done again: what it made is no longer there."""
        if self.world.is_first:
            (self.folder / stage.name / _RECORD).unlink(missing_ok=True)
        self.world.gather(None)

    def checkpoint(self, stage: Stage, every_seconds: float, part: str = "state") -> Checkpoint:
        """Where this stage keeps how far it is, until it is done."""
        return Checkpoint(
            self._checkpoint_folder(stage) / part, f"{stage.digest} {part}", every_seconds, self.world
        )

    def _note(self, stage: Stage, kept: StageResult | None) -> StageResult:
        if kept is not None:
            self.narrator.title(f"{stage.title}: done before, kept")
            if self.world.is_first:  # a kill right after the stage was done may have left it
                self._drop_checkpoint(stage)
            result = kept
        else:
            self.world.gather(None)  # now it is there for everyone
            found = self.kept(stage)
            assert found is not None, f"{stage.name} is done, but not to be seen here"
            result = replace(found, kept=False)
        self.results[stage.name] = result
        return result

    def _do(self, stage: Stage, work: Work) -> None:
        place = self.folder / stage.name
        unfinished = place.with_name(f".{place.name}.partial-stage")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        give_back_memory()  # what an earlier stage left is not this one's
        _reset_peak_memory()
        began = time.monotonic()
        facts = work(unfinished)
        seconds, peak = time.monotonic() - began, _peak_memory_mb()
        record = {
            "digest": stage.digest,
            "depends_on": stage.depends_on,
            "facts": facts,
            "seconds": round(seconds, 2),
            "peak_memory_mb": peak,
        }
        (unfinished / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (place / _RECORD).unlink(missing_ok=True)  # first: half a folder must not look finished
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
        self._drop_checkpoint(stage)
        self.narrator.say(f"    took {seconds:.1f} s, peak memory {peak:,} MB")

    def _drop_checkpoint(self, stage: Stage) -> None:
        shutil.rmtree(self._checkpoint_folder(stage), ignore_errors=True)

    def _checkpoint_folder(self, stage: Stage) -> Path:
        return self.folder / f".{stage.name}.checkpoint"


class FinishedStages(StageStore):
    """The stages of a run that is through, read back: nothing is done, whatever its digest would be today."""

    def __init__(self, folder: Path, narrator: Narrator) -> None:
        """Read from `folder`, which may not be there."""
        self.folder = folder
        self.narrator = narrator
        self.world = World()
        self.results = {}

    def run(self, stage: Stage, work: Work, before: Callable[[], None] | None = None) -> StageResult:
        """Return what the stage of this name left.

        Raises:
            TrainingError: it is not there, or not whole.

        """
        return self.left(stage.name)

    def deal_out(self, jobs: Sequence[tuple[Stage, Work]]) -> list[StageResult]:
        """Return what the stages of these names left; raises as `run`."""
        return [self.left(stage.name) for stage, _ in jobs]

    def left(self, name: str) -> StageResult:
        """Return what a stage left; raises as `run`."""
        result = read_result(self.folder / name)
        if result is None:
            raise TrainingError(
                f"{self.folder.parent}: its stage {name!r} is not there, so the run is not finished. Start its "
                "`gradientspace train` again; it goes on where it was."
            )
        return result


def read_result(place: Path) -> StageResult | None:
    """Read what a stage left in its folder; None where it left nothing whole."""
    try:
        record = json.loads((place / _RECORD).read_text(encoding="utf-8"))
        return StageResult(
            place,
            record["digest"],
            record["facts"],
            record["seconds"],
            record["peak_memory_mb"],
            kept=True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _reset_peak_memory() -> None:
    try:
        _CLEAR.write_text("5")
    except OSError:
        return  # not Linux, or not allowed: the peak is then that of the whole run so far


def _peak_memory_mb() -> int:
    try:
        status = _STATUS.read_text(encoding="ascii")
    except OSError:
        return 0
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) // 1024


def give_back_memory() -> None:
    """Give the system what is no longer used: fine-tuning leaves gigabytes of free pages in the heap."""
    gc.collect()
    with suppress(AttributeError):  # not glibc: nothing to give back
        ctypes.CDLL(None).malloc_trim(0)
