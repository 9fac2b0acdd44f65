"""The encoder in int8 answers where its margin says that float32 would choose the same; float32 answers the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from router.cascade import margins
from router.softmax import softmax


class Scoring(Protocol):
    """A router on an encoder: `SemanticRouter` or `EmbeddingRouter`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The K experts' names."""

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; the largest decides."""


class Int8FirstRouter:
    """One router in two precisions. Rounding changes a decision only where two experts are about as likely."""

    def __init__(self, int8: Scoring, float32: Scoring, threshold: float, temperature: float) -> None:
        """`threshold` is the margin of int8's scores from which on they stand; `temperature` is both routers'."""
        self.labels = float32.labels
        self._int8 = int8
        self._float32 = float32
        self._threshold = threshold
        self._temperature = temperature

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one and depends on its own text only."""
        scores = self._int8.scores(texts)
        doubtful = np.flatnonzero(margins(scores) < self._threshold)
        if len(doubtful):
            scores[doubtful] = self._float32.scores([texts[place] for place in doubtful])
        return softmax(scores, self._temperature)
