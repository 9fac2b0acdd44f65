"""Every row's unit gradient on disk: computed once, read by the probe, by every epoch and by the assignment.

The file is reserved whole before the first gradient is computed, so a full disk is met at once and not hours
later. Rows lie in the order they are computed in, shortest first. After each piece a line of the journal says
which rows are there, with their checksums; a killed run goes on after the last line whose rows are still what
they were. Writing is by pwrite (a full disk is then an error, not a bus error), reading by short memory maps,
so that no row stays in the process's memory.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from training.errors import TrainingError
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Compared, check_norms
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow
from training.stages.processes import World

_PIECE_BYTES = 1 << 28  # of gradients computed and written at once
_PIECE_ROWS = 64  # and rows, at most: enough to fill micro-batches with rows of one length
_HEAD, _JOURNAL, _GRADIENTS = "head.json", "journal.jsonl", "gradients.f32"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoredGradients:
    """This process's rows on disk; as a source, it gives what `Recomputed` would give."""

    def __init__(
        self, folder: Path, digest: str, lengths: Sequence[int], dimension: int, world: World
    ) -> None:
        """Open what is there for this `digest`, or begin anew; `lengths` are those of all rows of the run.

        Raises:
            TrainingError: the disk has not enough room.

        """
        self.folder = folder / f"rank-{world.rank}-of-{world.size}"
        self.dimension = dimension
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._lengths = lengths
        self._owners = world.shares(lengths)
        mine = [row for row, owner in enumerate(self._owners) if owner == world.rank]
        self._order = sorted(mine, key=lambda row: (lengths[row], row))
        self._slot = {row: slot for slot, row in enumerate(self._order)}
        self._row_bytes = 4 * dimension
        self._checksum: dict[int, str] = {}
        self._norm = np.zeros(len(lengths))
        self._share_b = np.zeros(len(lengths))
        self._file = self._open(digest)

    @property
    def missing(self) -> list[int]:
        """Rows that are still to be computed, shortest first."""
        return [row for row in self._order if row not in self._checksum]

    def fill(self, source: RowGradients, rows: Sequence[TokenRow], advance: Advance) -> None:
        """Compute and keep what is missing; `rows` are all rows of the run.

        Raises:
            TrainingError: the disk is full, or a row's loss is not a number.

        """
        piece_rows = max(1, min(_PIECE_ROWS, _PIECE_BYTES // self._row_bytes))
        missing = self.missing
        for start in range(0, len(missing), piece_rows):
            piece = missing[start : start + piece_rows]
            picked = [rows[row] for row in piece]
            gradients = source.whole(picked, advance)  # [p, d]
            norms, shares = _scale(gradients, source, picked)
            host = gradients.cpu().numpy()
            line: dict[str, Any] = {"rows": piece, "norm": norms, "share_b": shares, "checksums": []}
            for row, gradient in zip(piece, host, strict=True):
                self._write(row, gradient)
                line["checksums"].append(xxhash.xxh3_64_hexdigest(gradient))
            self._note(line)
            try:
                with (self.folder / _JOURNAL).open("a", encoding="utf-8") as journal:
                    text = json.dumps(line)
                    # The line end comes first: never write on to a line that a kill cut off.
                    journal.write(f"\n{xxhash.xxh3_64_hexdigest(text.encode())} {text}")
            except OSError as error:
                raise _refusal(error, self.folder) from error

    def close(self) -> None:
        """Close, and leave it for the next run."""
        os.close(self._file)

    def owners(self, rows: Sequence[int]) -> list[int]:
        """As `UnitGradients.owners`: whoever keeps the row."""
        return [self._owners[row] for row in rows]

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        """As `UnitGradients.unit`.

        Raises:
            TrainingError: a gradient on disk is not what was written.

        """
        gradients = np.empty((len(rows), self.dimension), dtype=np.float32)  # [m, d]
        for place, row in enumerate(rows):
            self._read(row, gradients[place])
            if xxhash.xxh3_64_hexdigest(gradients[place]) != self._checksum[row]:
                raise TrainingError(
                    f"{self.folder / _GRADIENTS}: the gradient of row number {row} is not what was written there: the "
                    "disk or another program changed it. Start the same command again: it finds the damaged rows and "
                    "computes them anew."
                )
            advance(1)
        return torch.from_numpy(gradients).to(self.device)

    def compare(self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress) -> Compared:
        """As `UnitGradients.compare`."""
        places = list(rows)
        # Whole gradients go by, a few at a time: what is kept of them is K numbers.
        few = max(1, _PIECE_BYTES // self._row_bytes)
        cosines = [
            (self.unit(places[first : first + few], advance) @ centroids.T).double()
            for first in range(0, len(places), few)
        ]
        return Compared(
            cosines=torch.cat(cosines),
            norm=torch.from_numpy(self._norm[places]).to(self.device),
            share_b=torch.from_numpy(self._share_b[places]).to(self.device),
        )

    def _open(self, digest: str) -> int:
        head = json.dumps({"digest": digest, "rows": len(self._lengths), "dimension": self.dimension})
        try:
            same = (self.folder / _HEAD).read_text(encoding="utf-8") == head
        except OSError:
            same = False
        if not same:
            remove_gradients(self.folder)
            self.folder.mkdir(parents=True)
        file = os.open(self.folder / _GRADIENTS, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if os.fstat(file).st_size < len(self._order) * self._row_bytes:
                os.posix_fallocate(file, 0, len(self._order) * self._row_bytes)
            if not same:
                (self.folder / _HEAD).write_text(head, encoding="utf-8")
        except OSError as error:
            os.close(file)
            remove_gradients(self.folder)
            raise _refusal(error, self.folder, len(self._order) * self._row_bytes) from error
        self._file = file
        if same:
            self._recover()
        return file

    def _recover(self) -> None:
        """Take from the journal what is still true."""
        try:
            journal = (self.folder / _JOURNAL).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return
        found = np.empty(self.dimension, dtype=np.float32)
        for noted in journal.splitlines():
            checksum, _, text = noted.partition(" ")
            if xxhash.xxh3_64_hexdigest(text.encode()) != checksum:
                continue  # cut off by the kill, or changed since: the norms are nowhere else
            line, whole = json.loads(text), True
            for row, checksum in zip(line["rows"], line["checksums"], strict=True):
                self._read(row, found)
                whole = whole and xxhash.xxh3_64_hexdigest(found.data) == checksum
            if whole:
                self._note(line)

    def _note(self, line: dict[str, Any]) -> None:
        self._checksum.update(zip(line["rows"], line["checksums"], strict=True))
        self._norm[line["rows"]] = line["norm"]
        self._share_b[line["rows"]] = line["share_b"]

    def _write(self, row: int, gradient: NDArray[np.float32]) -> None:
        rest, offset = gradient.data.cast("B"), self._slot[row] * self._row_bytes
        try:
            while rest:
                written = os.pwrite(self._file, rest, offset)
                rest, offset = rest[written:], offset + written
        except OSError as error:
            raise _refusal(error, self.folder) from error

    def _read(self, row: int, into: NDArray[np.float32]) -> None:
        offset = self._slot[row] * self._row_bytes
        before = offset % mmap.ALLOCATIONGRANULARITY
        with mmap.mmap(
            self._file, before + self._row_bytes, offset=offset - before, access=mmap.ACCESS_READ
        ) as view:
            into[:] = np.frombuffer(view, dtype=np.float32, count=self.dimension, offset=before)


def remove_gradients(folder: Path) -> None:
    """Delete gradients kept on disk, if there are any."""
    shutil.rmtree(folder, ignore_errors=True)


def _scale(
    gradients: Tensor, source: RowGradients, rows: Sequence[TokenRow]
) -> tuple[list[float], list[float]]:
    """Make gradients [p, d] unit vectors in place; return their norms and the share of B in their squares."""
    squared = torch.zeros(2, len(gradients), dtype=torch.float64, device=gradients.device)  # [A and B, p]
    for factor in source.factors:
        part = gradients[:, factor.start : factor.stop]  # [p, d_f]
        squared[int(factor.is_b)] += part.square().sum(1).double()
    total = squared.sum(0)  # [p]
    norms = total.sqrt()
    check_norms(norms, rows)
    gradients /= norms.clamp_min(1e-12).float()[:, None]  # as torch's normalize does
    return norms.tolist(), (squared[1] / total.clamp_min(torch.finfo(total.dtype).tiny)).tolist()


def _refusal(error: OSError, folder: Path, needed: int | None = None) -> TrainingError | OSError:
    if error.errno not in _FULL:
        return error
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    wanted = f"needs {needed / 1e9:.2f} GB there" if needed else "could not write more"
    return TrainingError(
        f"The disk of {folder} is full: keeping gradients on disk {wanted}, {free / 1e9:.2f} GB are free. Free some, "
        "or set clusters.gradients=recompute (or a smaller --disk-budget) and start the same command again; what was "
        "finished is kept."
    )
