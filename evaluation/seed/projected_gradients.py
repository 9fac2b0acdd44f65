"""Rows' gradients, randomly projected to 8,192 dimensions: what ELREA clusters and compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from sklearn.random_projection import SparseRandomProjection
from torch import Tensor

from evaluation.seed.partition import Model
from evaluation.seed.seed_run import SeedRun
from training.gradients.row_gradients import RowGradients
from training.gradients.source import make_unit_
from training.models.finetune import load_adapter
from training.rows.rendering import TokenRow
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage

DIMENSIONS = 8192  # paper, section 6.2
_BLOCK_ROWS = 64


def of_instruction(row: TokenRow) -> TokenRow:
    """Return the row as a question alone: its loss is that of the prompt's own tokens, after the first."""
    return replace(row, input_ids=row.input_ids[: row.prompt_length], prompt_length=1, earlier=())


def projected_gradients(
    run: SeedRun, name: str, adapter: TrainedAdapter | Model, rows: Sequence[TokenRow]
) -> NDArray[np.float32]:
    """Return unit projected gradients of rows [n, 8192], with the base and this adapter.

    The projection is scikit-learn's sparse one (Li, Hastie and Church: 1 / sqrt(d) of the entries are not zero), the
    same for all rows of a seed; cosines keep to about 1 / sqrt(8192) = 0.011.
    """
    assert adapter.folder is not None
    folder_of_adapter = adapter.folder

    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(run.inputs.base, folder_of_adapter, trainable=False, dtype=torch.float32)
        budget = run.inputs.recipe.clusters.micro_batch_tokens
        blocks = []
        with (
            RowGradients(model, run.pad_id, budget) as source,
            run.store.narrator.bar("projecting gradients", len(rows), "rows") as advance,
        ):
            project = _projection(source.dimension, run.seed)
            for start in range(0, len(rows), _BLOCK_ROWS):
                whole = source.whole(rows[start : start + _BLOCK_ROWS], advance)  # [b, d]
                blocks.append(torch.from_numpy(project.transform(whole.cpu().numpy())))  # [b, 8192]
        found: Tensor = torch.cat(blocks).float()
        make_unit_(found)
        save_file({"gradients": found.numpy()}, folder / "projected.safetensors")
        return {"dimension": source.dimension, "projected": DIMENSIONS}

    depends_on = {
        "adapter": adapter.digest,
        "rows": [[len(row.input_ids), row.prompt_length, list(row.earlier), row.origin] for row in rows],
        "inputs": [run.inputs.digest, run.test_digest],
        "seed": run.seed,
    }
    done = run.store.run(
        Stage(f"projected-{name}", f"{name}: {len(rows):,} gradients, projected", depends_on), work
    )
    return load_file(done.folder / "projected.safetensors")["gradients"]


def _projection(dimension: int, seed: int) -> SparseRandomProjection:
    projection = SparseRandomProjection(DIMENSIONS, random_state=seed)
    return projection.fit(np.zeros((1, dimension), dtype=np.float32))
