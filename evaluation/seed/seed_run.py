"""What all methods of one seed stand on: its rows, and the work that they share, done once when first asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from evaluation.seed.partition import Partition
from training.clusters.assignment import compare_rows, place
from training.clusters.results import Assigned
from training.gradients.source import Recomputed
from training.gradients.supply import GradientSupply, row_gradients
from training.models.finetune import Schedule
from training.router.head import fit_head
from training.rows.rendering import TokenRow
from training.run import Run
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore


@dataclass(frozen=True)
class LabelledClusters:
    """What Stage II made: its result, and the labels [N + T] of all rows of the run and then of the test rows."""

    assigned: Assigned
    labels: NDArray[np.int64]
    k: int


class SeedRun:
    """One seed's rows and shared stages; use as a context manager.

    Rows have one numbering: the run's N rows (training and validation), then the T test rows. Whatever a method
    says of rows (labels, weights) is an array over all N + T of them.
    """

    def __init__(
        self,
        inputs: Inputs,
        store: StageStore,
        test: Sequence[TokenRow],
        warmup: TrainedAdapter | None = None,
    ) -> None:
        """Evaluate on `test` what is trained on `inputs`, from `warmup` where another run has done Stage I."""
        self.inputs = inputs
        self.run = Run(inputs, store, warmup)
        self.store = store
        self.rows: list[TokenRow] = [*inputs.rows, *test]
        self.train = np.asarray(inputs.split.train)
        self.validation = np.asarray(inputs.split.validation)
        self.test = np.arange(len(inputs.rows), len(self.rows))
        self.test_digest = _digest([row.parts for row in test])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.run.__exit__(*exc)

    @property
    def seed(self) -> int:
        """The recipe's seed."""
        return self.inputs.recipe.seed

    @property
    def pad_id(self) -> int:
        """The tokenizer's padding token."""
        return int(self.inputs.tokenizer.pad_token_id)

    def pick(self, places: Sequence[int] | NDArray[np.int64]) -> list[TokenRow]:
        """Return the rows at these places."""
        return [self.rows[int(place)] for place in places]

    def schedule(self, learning_rate: float, share: float = 1.0) -> Schedule:
        """Return the schedule of experts at this rate, for `share` of the row visits that every method has."""
        section = self.inputs.recipe.experts
        return Schedule(share * section.epochs, learning_rate, section.batch_rows)

    @property
    def warmup(self) -> TrainedAdapter:
        """The adapter that every method but zero-shot starts from."""
        return self.run.warmup

    @cached_property
    def clusters(self) -> LabelledClusters:
        """Stage II as the paper has it; a test row gets the cluster that its gradient, response seen, is in."""
        section = self.inputs.recipe.clusters
        if not section.readable and section.rule == "paper":
            return self._labelled(self.run)
        paper = section.model_copy(update={"readable": 0.0, "rule": "paper"})
        return self._labelled(self.run.with_clusters(paper, "paper"))

    @cached_property
    def readable_clusters(self) -> LabelledClusters:
        """Stage II as the recipe has it, to its `clusters.readable`; test rows as in `clusters`, and by prompt."""
        return self._labelled(self.run)

    @property
    def supply(self) -> GradientSupply:
        """The gradients of the run's rows; `open` comes before the first use of its source."""
        return self.run.supply

    def clear(self) -> None:
        """Delete the gradients on disk: the seed is through, and its stages have what was made of them."""
        self.run.remove_gradients()

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """The router's encoding of every row's routed text [N + T, H]."""
        section, encoder = self.inputs.recipe.router, self.inputs.encoder
        texts = [row.routed_text for row in self.pick(self.test)]

        def work(folder: Path) -> dict[str, Any]:
            with self.store.narrator.bar("encoding prompts", len(texts), "rows") as advance:
                found = encoder.embed(texts, section.max_tokens, advance)
            save_file({"embeddings": found}, folder / "embeddings.safetensors")
            return {"hidden": encoder.hidden}

        depends_on = {"texts": _digest(texts), "encoder": encoder.sha256, "max_tokens": section.max_tokens}
        done = self.store.run(Stage("embeddings", "Test prompts, as the router reads them", depends_on), work)
        of_test = load_file(done.folder / "embeddings.safetensors")["embeddings"]
        return np.concatenate([self.run.prompts.embeddings[: len(self.inputs.rows)], of_test])

    def routed(self, name: str, labels: NDArray[np.int64], k: int) -> Partition:
        """Learn labels [N + T] of the training rows from their prompts, and route every row (section 5.4.2)."""
        head = fit_head(self.embeddings[self.train], labels[self.train], k, self.seed)
        return Partition(name, labels, head.logits(self.embeddings).argmax(1), k)

    def _labelled(self, run: Run) -> LabelledClusters:
        centroids, assigned, store = run.centroids, run.assigned, run.store
        test = self.pick(self.test)

        def work(folder: Path) -> dict[str, Any]:
            with (
                row_gradients(self.inputs, self.warmup) as gradients,
                store.narrator.bar("rows", len(test), "rows") as advance,
            ):
                compared = compare_rows(
                    Recomputed(gradients, test, store.world),
                    [len(row.input_ids) for row in test],
                    centroids.centroids()[assigned.centroid_of_label].to(
                        gradients.device
                    ),  # [K, d], by label
                    store.checkpoint(stage, self.inputs.recipe.clusters.checkpoint_seconds),
                    advance,
                )
            added = None
            if centroids.drawn is not None:
                added = centroids.drawn.of(self.embeddings[self.test])[:, assigned.centroid_of_label]
            return {"labels": place(compared.cosines, added).labels.tolist()}

        depends_on = {"assigned": assigned.digest, "test": self.test_digest}
        stage = Stage("oracle", "Test rows: the cluster of each one's gradient, response seen", depends_on)
        of_test = np.asarray(store.run(stage, work).facts["labels"], dtype=np.int64)
        return LabelledClusters(assigned, np.concatenate([assigned.assignment.labels, of_test]), assigned.k)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
