"""Stages remember what they made: a rerun skips what is done, and a kill loses the stage under way, no more."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.progress import Narrator

_RECORD = "stage.json"
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


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

    def __init__(self, folder: Path, narrator: Narrator) -> None:
        """Use `folder`, made if it is not there."""
        self.folder = folder
        self.narrator = narrator
        self.results: dict[str, StageResult] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def run(
        self, name: str, title: str, depends_on: dict[str, Any], work: Callable[[Path], dict[str, Any]]
    ) -> StageResult:
        """Do a stage, unless a finished one depended on exactly the same.

        `work` fills the folder it is given and returns facts (JSON) about it. The folder is renamed to its
        place after that, so a stage is there whole or not at all.
        """
        digest = _digest(name, depends_on)
        place = self.folder / name
        result = self._kept(place, digest)
        if result is None:
            self.narrator.title(title)
            result = self._do(place, digest, depends_on, work)
            self.narrator.say(f"    took {result.seconds:.1f} s, peak memory {result.peak_memory_mb:,} MB")
        else:
            self.narrator.title(f"{title}: done before, kept")
        self.results[name] = result
        return result

    def _kept(self, place: Path, digest: str) -> StageResult | None:
        try:
            record = json.loads((place / _RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(record, dict) or record.get("digest") != digest:
            return None
        return StageResult(
            place, digest, record["facts"], record["seconds"], record["peak_memory_mb"], kept=True
        )

    def _do(
        self,
        place: Path,
        digest: str,
        depends_on: dict[str, Any],
        work: Callable[[Path], dict[str, Any]],
    ) -> StageResult:
        unfinished = place.with_name(f".{place.name}.partial-stage")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        _reset_peak_memory()
        began = time.monotonic()
        facts = json.loads(json.dumps(work(unfinished)))  # as a later run will read them: lists, no tuples
        seconds, peak = time.monotonic() - began, _peak_memory_mb()
        record = {
            "digest": digest,
            "depends_on": depends_on,
            "facts": facts,
            "seconds": round(seconds, 2),
            "peak_memory_mb": peak,
        }
        (unfinished / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        (place / _RECORD).unlink(missing_ok=True)  # first: half a folder must not look finished
        shutil.rmtree(place, ignore_errors=True)
        unfinished.rename(place)
        return StageResult(place, digest, facts, round(seconds, 2), peak, kept=False)


def _digest(name: str, depends_on: dict[str, Any]) -> str:
    canonical = json.dumps([name, depends_on], sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


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
