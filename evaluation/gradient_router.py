"""Gradient similarity (GS) of section 6.4: the prompt's own LoRA gradient against the stored centroids.

The label of a training row is the argmax of this very cosine, but over the answer's tokens, which a request does not
have. Its prompt is all there is: the loss is the mean over the prompt's own tokens, in the chat template, with the
warm-up adapter on the frozen base, and the gradient of it is compared with the centroids that training left. A forward
and a backward pass of the base for every prompt: it is here to be compared with, and no service loads it.
"""

from __future__ import annotations

import copy
import json
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from training.assignment import Assignment
from training.errors import TrainingError
from training.gradient_source import Recomputed
from training.gradient_supply import row_gradients
from training.inputs import Inputs
from training.rendering import TokenRow, prompt_ids
from training.stage_store import StageResult
from training.stage_two import read_assignment, read_centroids
from training.world import World


class GradientRouter:
    """softmax(cosine / temperature) of a prompt's gradient and the K centroids."""

    def __init__(
        self, inputs: Inputs, stages: Path, labels: tuple[str, ...], temperature: float = 1.0
    ) -> None:
        """Load the base with the warm-up adapter; `stages` is a folder of the run that `inputs` are of.

        Raises:
            TrainingError: a stage is missing, or the stages are not of one run.

        """
        warmup, centroids = finished_stage(stages, "warmup"), finished_stage(stages, "centroids")
        assignment = read_assignment(finished_stage(stages, "assignment"))
        self.labels = labels
        self._temperature = temperature
        self._tokenizer = inputs.tokenizer
        self._longest = min(inputs.recipe.data.max_length, inputs.base.max_positions)
        # Merged for good: the model is this router's own.
        self._gradients = row_gradients(inputs, warmup).__enter__()
        whole = read_centroids(centroids).to(self._gradients.device)  # [clusters, d]
        self._centroids = whole[self._centroid_of_label(inputs, assignment, whole)]  # [K, d]

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one. A text without a token is even."""
        return softmax(self.cosines(texts) / self._temperature, axis=1).astype(np.float32)

    def with_temperature(self, temperature: float) -> GradientRouter:
        """Return the same router with another temperature."""
        other = copy.copy(self)
        other._temperature = temperature
        return other

    def cosines(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosines `[n, K]` of the prompts' gradients with the experts' centroids."""
        found = np.zeros((len(texts), len(self.labels)))
        rows = [self._row(text) for text in texts]
        some = [place for place, row in enumerate(rows) if len(row.input_ids) > 1]
        if some:
            found[some] = self._cosines([rows[place] for place in some], self._centroids)
        return found

    def _row(self, text: str) -> TokenRow:
        message = {"role": "user", "content": text}
        ids = prompt_ids(self._tokenizer, (message,))[: self._longest]  # type: ignore[arg-type]
        # A row whose prompt is its first token, which nothing predicts: the loss is on all the others.
        return TokenRow("a prompt", None, text, array("i", ids), 1)

    def _cosines(self, rows: Sequence[TokenRow], centroids: torch.Tensor) -> NDArray[np.float64]:
        compared = Recomputed(self._gradients, rows, World()).compare(range(len(rows)), centroids)
        return compared.cosines.cpu().numpy()

    def _centroid_of_label(
        self, inputs: Inputs, assignment: Assignment, centroids: torch.Tensor
    ) -> list[int]:
        """Which centroid is each label's [K]: clusters were ordered by size after their centroids were made."""
        nearest = [
            int(np.where(assignment.labels == label, assignment.cosine, -np.inf).argmax())
            for label in range(assignment.k)
        ]
        found = [int(one) for one in self._cosines(inputs.pick(nearest), centroids).argmax(1)]
        if len(set(found)) < len(found):
            raise TrainingError(
                "The stored centroids do not fit the assigned rows: two experts have the same nearest centroid. "
                "Was the run folder changed after training?"
            )
        return found


def finished_stage(stages: Path, name: str) -> StageResult:
    """Return a stage that a run left.

    Raises:
        TrainingError: there is none.

    """
    folder = stages / name
    try:
        record = json.loads((folder / "stage.json").read_text(encoding="utf-8"))
        return StageResult(
            folder, record["digest"], record["facts"], record["seconds"], record["peak_memory_mb"], kept=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"{folder}: there is no finished stage. The gradient router needs the run folder of a training"
        ) from error
