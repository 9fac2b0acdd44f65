"""Gradient similarity (GS) of section 6.4: the prompt's own LoRA gradient against the stored centroids.

A forward and a backward pass of the base for every prompt: it is here to be compared with, and no service loads it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from router.protocol import Router
from training.run import Run


class GradientRouter(Router):
    """softmax(cosine / temperature) of a prompt's gradient and the K centroids."""

    def __init__(self, run: Run, labels: tuple[str, ...], temperature: float = 1.0) -> None:
        """Load the base with the warm-up adapter of a finished run.

        Raises:
            TrainingError: a stage of it is missing.

        """
        self.labels = labels
        self._temperature = temperature
        self._gradients = run.prompt_gradients()

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
