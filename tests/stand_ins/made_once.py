"""Folders that cost a while to make: made by the first who asks, in whichever worker, and read by all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock


@dataclass(frozen=True)
class MadeOnce:
    """Who changes such a folder takes a copy."""

    root: Path

    def __call__(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return `root/name`, filled by `make`; others wait meanwhile, and try anew if it failed."""
        folder, done = self.root / name, self.root / f"{name}.done"
        with FileLock(self.root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder
