"""Scores to probabilities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(scores: NDArray[np.floating], temperature: float) -> NDArray[np.float32]:
    """Return softmax(scores / temperature) over the columns of `[n, K]`; computed in float64."""
    scaled = scores.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
