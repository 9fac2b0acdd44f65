"""Methods tried again on the rows of a finished run, from its own warm-up adapter, judged on rows it never saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import EvidenceError
from evaluation.seed.seed_run import SeedRun
from training.rows.reading import HowToRead, read_rows
from training.rows.rendering import TokenRow, render
from training.run import Run
from training.stages.inputs import Inputs
from training.stages.store import StageStore


class Rerun(SeedRun):
    """A `SeedRun` on a finished run's rows and warm-up adapter; what is trained goes to `store`."""

    def __init__(self, run: Run, store: StageStore, held_out: Sequence[TokenRow]) -> None:
        """Judge on `held_out`, or, if there are none, on the run's validation rows.

        Raises:
            TrainingError: the run has no warm-up adapter.

        """
        super().__init__(run.inputs, store, held_out, run.warmup)

    @property
    def judged(self) -> NDArray[np.int64]:
        """The rows that losses are taken on."""
        return self.test if len(self.test) else self.validation


def read_held_out(files: Sequence[str], inputs: Inputs) -> list[TokenRow]:
    """Read and render held-out rows as the run's own rows were; those too long for it are passed over.

    Raises:
        TrainingError: a file can't be read, or holds no row that can be used.

    """
    found: list[TokenRow] = []
    limit = min(inputs.recipe.data.max_length, inputs.base.max_positions)
    for file in files:
        read, _ = read_rows((file,), HowToRead.of(inputs.recipe.data))
        rendered = [render(inputs.tokenizer, row, inputs.recipe.router.routed_text, limit) for row in read]
        usable = [row for row in rendered if isinstance(row, TokenRow)]
        if not usable:
            raise EvidenceError(f"{file}: not one row in it can be used. Check its form and length.")
        found += usable
    return found
