"""Opens what Stage II gets its gradients from, when the first of its stages asks for it, and clears up after it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed, UnitGradients
from training.gradients.store import StoredGradients, remove_gradients
from training.models.finetune import load_adapter
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore


class GradientSupply:
    """One source of gradients for all of Stage II; use as a context manager."""

    def __init__(
        self, inputs: Inputs, store: StageStore, warmup: TrainedAdapter, dimension: int, kind: str
    ) -> None:
        """Supply from `disk`, or `recompute`; `dimension` is d."""
        self.inputs = inputs
        self.store = store
        self.warmup = warmup
        self.dimension = dimension
        self.kind = kind
        self.folder = store.folder.parent / "gradients"
        self._stack = ExitStack()
        self._source: UnitGradients | None = None

    def __enter__(self) -> GradientSupply:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def source(self) -> UnitGradients:
        """Where gradients come from; `open` comes first."""
        assert self._source is not None
        return self._source

    def open(self) -> None:
        """Be ready: load the model, or compute what is not on disk yet."""
        if self._source is None:
            self._source = self._stored() if self.kind == "disk" else self._recomputed()

    def remove(self) -> None:
        """Delete what is on disk: Stage II is done."""
        self._stack.close()
        self._source = None
        self.store.world.gather(None)
        if self.store.world.is_first:
            remove_gradients(self.folder)

    def _recomputed(self) -> UnitGradients:
        source = self._stack.enter_context(row_gradients(self.inputs, self.warmup))
        return Recomputed(source, self.inputs.rows, self.store.world)

    def _stored(self) -> UnitGradients:
        stage = Stage("gradients", "Stage II: every row's gradient, once", {"warmup": self.warmup.digest})
        lengths = self.inputs.lengths
        stored = StoredGradients(self.folder, stage.digest, lengths, self.dimension, self.store.world)
        self._stack.callback(stored.close)
        missing = self.store.world.gather(len(stored.missing))
        if any(missing):
            self.store.forget(stage)

        def work(folder: Path) -> dict[str, Any]:
            with (
                row_gradients(self.inputs, self.warmup) as source,
                self.store.narrator.bar("row gradients", len(stored.missing), "rows") as advance,
            ):
                stored.fill(source, self.inputs.rows, advance)
            return {"rows": len(lengths), "bytes": 4 * self.dimension * len(lengths)}

        self.store.run(stage, work)
        return stored


def row_gradients(inputs: Inputs, warmup: TrainedAdapter) -> RowGradients:
    """The frozen base with the warm-up adapter, always in float32."""
    model = load_adapter(inputs.base, warmup.folder, trainable=False, dtype=torch.float32)
    return RowGradients(
        model,
        pad_id=int(inputs.tokenizer.pad_token_id),
        token_budget=inputs.recipe.clusters.micro_batch_tokens,
    )
