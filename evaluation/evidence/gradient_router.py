"""Gradient similarity (GS) of section 6.4: the prompt's own LoRA gradient against the stored centroids.

A forward and a backward pass of the base for every prompt: it is here to be compared with, and no service loads it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from training.errors import TrainingError
from training.router.prompt_gradients import PromptGradients
from training.stage_two import read_assignment
from training.stages.inputs import Inputs
from training.stages.store import StageResult


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
        self._gradients = PromptGradients(inputs, warmup, centroids, assignment)

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
        return self._gradients.cosines(texts)


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
