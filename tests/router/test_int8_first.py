"""Int8 answers from its margin on, float32 the rest, and nobody sees which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from router.int8_first import Int8FirstRouter


class Scores:
    """Scores by text, and which texts were asked for."""

    labels = ("expert-0", "expert-1")

    def __init__(self, of: dict[str, list[float]]) -> None:
        self._of = of
        self.asked: list[str] = []

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.asked += texts
        return np.array([self._of[text] for text in texts], np.float32).reshape(-1, 2)


def test_only_what_int8_is_unsure_of_is_read_again() -> None:
    int8 = Scores({"sure": [3, 1], "edge": [0, 1], "unsure": [0.6, 0.5]})
    float32 = Scores({"unsure": [0.4, 0.8]})
    router = Int8FirstRouter(int8, float32, threshold=1.0, temperature=0.5)
    found = router.probabilities(["sure", "unsure", "edge"])
    assert float32.asked == ["unsure"]
    scores = np.array([[3, 1], [0.4, 0.8], [0, 1]]) / 0.5
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-6


def test_where_int8_is_sure_of_all_float32_is_not_asked() -> None:
    float32 = Scores({})
    router = Int8FirstRouter(Scores({"a": [2, 0]}), float32, 1.0, 1.0)
    assert router.probabilities(["a", "a"]).shape == (2, 2)
    assert router.probabilities([]).shape == (0, 2)
    assert float32.asked == []
