"""The inner products of all rows' gradients: all that Stage II and every ablation of it need.

The warm-up adapter is frozen, so a row's gradient is a constant, and what Stage II does with gradients is a
function of their inner products alone (tests/training/clusters/test_stage_two_oracle.py). So they are computed
once, for the run's rows and for held-out ones, and each variant of Stage II then costs seconds instead of a pass
over the rows.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from training.clusters.gram import ProbeGradients
from training.gradients.store import StoredGradients, remove_gradients
from training.gradients.supply import row_gradients
from training.rows.rendering import TokenRow
from training.stages.checkpoint import Checkpoint
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.processes import World
from training.stages.store import Stage, StageStore

_FILE = "cosines.safetensors"
_HELD_BYTES = 2 << 30  # gradients held at once; rows beyond it are read again, block by block


@dataclass(frozen=True)
class GradientCosines:
    """Of N rows: cosines [N, N] of their gradients, and their norms [N]."""

    cosines: NDArray[np.float64]
    norms: NDArray[np.float64]
    dimension: int
    """d, of the gradients."""

    @property
    def products(self) -> NDArray[np.float64]:
        """Inner products [N, N] of the raw gradients."""
        return self.cosines * np.outer(self.norms, self.norms)


def gradient_cosines(
    inputs: Inputs, store: StageStore, warmup: TrainedAdapter, rows: Sequence[TokenRow]
) -> GradientCosines:
    """Compute them for `rows` under the warm-up adapter, or read what an earlier call kept in `store`.

    Raises:
        TrainingError: a row's gradient is no number.

    """
    depends_on = {"warmup": warmup.digest, "inputs": inputs.digest, "rows": _digest(rows)}
    stage = Stage("cosines", f"Inner products of {len(rows):,} gradients", depends_on)

    def work(folder: Path) -> dict[str, Any]:
        kept = store.folder.parent / "gradients-of-all"  # each row once, and not again after a kill
        with row_gradients(inputs, warmup) as source:
            dimension = source.dimension
            stored = StoredGradients(
                kept, stage.digest, [len(row.input_ids) for row in rows], dimension, World()
            )
            with store.narrator.bar("row gradients", len(stored.missing), "rows") as advance:
                stored.fill(source, rows, advance)
        everything = range(len(rows))
        probe = ProbeGradients(stored, everything, max(64, _HELD_BYTES // (4 * dimension)), World())
        with store.narrator.bar("inner products", probe.computed_rows, "rows at most") as advance:
            cosines = probe.gram(Checkpoint(folder, "", math.inf, World()), advance)
        norms = stored.compare(everything, torch.zeros(1, dimension, device=stored.device)).norm.cpu()
        stored.close()
        remove_gradients(kept)
        save_file({"cosines": cosines, "norms": norms}, folder / _FILE)
        return {"rows": len(rows), "dimension": dimension}

    done = store.run(stage, work)
    kept = load_file(done.folder / _FILE)
    return GradientCosines(kept["cosines"].numpy(), kept["norms"].numpy(), int(done.facts["dimension"]))


def _digest(rows: Sequence[TokenRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.parts} ".encode())
    return digest.hexdigest()
