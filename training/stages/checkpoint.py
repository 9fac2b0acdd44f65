"""Where a long stage stands, on disk: replaced whole, checked when it is read, gone when the stage is done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.errors import TrainingError
from training.stages.processes import World

_STATE = "state.json"
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class SavedState:
    """What was saved: facts that are JSON, and this process's tensors."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoint:
    """Saves where a stage stands, at most every `every_seconds`; several processes save together or not at all.

    What was saved for other inputs (`digest`) or for another number of processes counts for nothing.
    """

    def __init__(self, folder: Path, digest: str, every_seconds: float, world: World) -> None:
        """Use `folder`; it is made with the first save."""
        self.folder = folder
        self.digest = digest
        self.every_seconds = every_seconds
        self.world = world
        self._number = 0
        self._last = time.monotonic()

    def load(self) -> SavedState | None:
        """Read what the last save of this very stage left, if every process finds its part of it whole."""
        try:
            kept = json.loads((self.folder / _STATE).read_text(encoding="utf-8"))
            state = kept["state"]
            whole = kept["checksum"] == xxhash.xxh3_64_hexdigest(json.dumps(state).encode())
            ours = whole and state["digest"] == self.digest and len(state["checksums"]) == self.world.size
        except (OSError, ValueError, KeyError, TypeError):
            state, ours = {}, False
        tensors: dict[str, Tensor] | None = None
        if ours:
            self._number = state["number"]
            file = self._file(self._number)
            try:
                if _checksum(file) == state["checksums"][self.world.rank]:
                    tensors = load_file(file)
            except (OSError, SafetensorError):
                tensors = None
        if not all(self.world.gather(tensors is not None)):
            return None
        assert tensors is not None
        return SavedState(state["facts"], tensors)

    def due(self) -> bool:
        """Whether it is time to save again, by the first process's clock."""
        return self.world.from_first(time.monotonic() - self._last >= self.every_seconds)

    def save(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Save beside the last save, and put it in its place when all of it is there.

        Raises:
            TrainingError: it can't be written, most likely because the disk is full; the last save still counts.

        """
        number = self._number + 1
        file = self._file(number)
        with _sparing_the_last(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
        checksums = self.world.gather(_checksum(file))
        if self.world.is_first:
            state = {"digest": self.digest, "number": number, "checksums": checksums, "facts": facts}
            unfinished = self.folder / f".{_STATE}"
            checksum = xxhash.xxh3_64_hexdigest(json.dumps(state).encode())
            with _sparing_the_last(unfinished):
                unfinished.write_text(json.dumps({"state": state, "checksum": checksum}), encoding="utf-8")
                unfinished.replace(self.folder / _STATE)
        self.world.gather(None)  # nobody drops the last save before this one counts
        for old in self.folder.glob(f"*-{self.world.rank}.safetensors"):
            if old != file:
                old.unlink()
        self._number, self._last = number, time.monotonic()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}-{self.world.rank}.safetensors"


@contextmanager
def _sparing_the_last(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            file.unlink()  # half of it helps nobody, and the disk may be full
        raise TrainingError(
            f"{file}: where the stage stands can't be saved ({error}). Make room there and start the same command "
            "again: it goes on from the last save."
        ) from error


def _checksum(file: Path) -> str:
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while piece := stream.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
