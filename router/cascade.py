"""A linear model over hashed words answers where it surely agrees with the encoder; the encoder answers the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.errors import BundleError
from router.hashed_words import BUCKETS, hashed_words
from router.head_file import read_head
from router.known_pairs import KnownPairs
from router.protocol import Answers, Router
from router.softmax import softmax

CHARACTERS_PER_TOKEN = 4
"""Characters that the linear model reads for each token that the encoder may read: about as much text."""


class HashedWordsModel:
    """scores = the mean of W's columns at a text's hashed words, times their count's root; plus b.

    W `[K, 65536]`, b `[K]`. It was fitted to the encoder's own scores, so its margin (best score minus the next)
    tells how sure the encoder would be. `scale` and `shift` make of the margin a confidence: the probability that
    the encoder would choose the same. `temperature` makes of the scores probabilities of the experts.
    """

    def __init__(self, path: Path, shown: str, labels: tuple[str, ...], max_tokens: int) -> None:
        """Open the model's file, which a user knows as `shown`.

        Raises:
            BundleError: it can't be read, or is of other experts.

        """
        tensors, _ = read_head(path, shown, labels, ("W", "b", "calibration"))
        for name, shape in (("W", (len(labels), BUCKETS)), ("b", (len(labels),)), ("calibration", (3,))):
            if tensors[name].shape != shape:
                problem = f"its shape is {list(tensors[name].shape)}, not {list(shape)}"
                raise BundleError(shown, name, problem, "Train the bundle again")
        self._columns = np.ascontiguousarray(tensors["W"].T)  # [buckets, K]: a word's scores lie together
        self._bias = tensors["b"]
        self._scale, self._shift, self._temperature = (float(value) for value in tensors["calibration"])
        self._characters = max_tokens * CHARACTERS_PER_TOKEN

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`."""
        return scores_of([hashed_words(text, self._characters) for text in texts], self._columns, self._bias)

    def confidence(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability `[n]` that the encoder would choose what these scores `[n, K]` do."""
        return 1 / (1 + np.exp(-(self._scale * margins(scores) + self._shift)))

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the experts' probabilities `[n, K]`."""
        return softmax(scores, self._temperature)


def scores_of(
    words: Sequence[NDArray[np.uint32]], columns: NDArray[np.float32], bias: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return `[n, K]` of texts' buckets, for W transposed `[buckets, K]` and b `[K]`."""
    scores = np.repeat(bias[None, :], len(words), axis=0)
    for place, buckets in enumerate(words):
        if len(buckets):
            scores[place] += columns[buckets].sum(axis=0) / np.sqrt(np.float32(len(buckets)))
    return scores


def margins(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the best score minus the next `[n]`; without a next, infinity."""
    if scores.shape[1] < 2:
        return np.full(len(scores), np.inf)
    best = np.partition(scores.astype(np.float64), -2, axis=1)
    return best[:, -1] - best[:, -2]


class CascadeRouter(Router):
    """A router that asks its linear model first, and its encoder about the texts that the model is not sure of.

    The linear model can't tell what is unfamiliar: what has too many pairs of words that are new
    is the encoder's to judge, however sure the model is of the rest.
    """

    def __init__(
        self, model: HashedWordsModel, encoder: Router, threshold: float, known: KnownPairs | None = None
    ) -> None:
        """`threshold` is the linear model's confidence from which on it answers, `known` what it has to know."""
        self.labels = encoder.labels
        self.encoder = encoder
        self._model = model
        self._threshold = threshold
        self._known = known

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one and depends on its own text only."""
        return self.answers(texts).probabilities

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the probabilities and which texts are unfamiliar, of the linear model and the encoder together."""
        return self.answered(texts)[0]

    def at_once(self, text: str) -> NDArray[np.float32] | None:
        """Return the row `[K]` of a text that the linear model is sure of; None: ask `encoder`."""
        scores = self._model.scores([text])
        return self._model.probabilities(scores)[0] if self._answers([text], scores)[0] else None

    def answered(self, texts: Sequence[str]) -> tuple[Answers, NDArray[np.bool_]]:
        """Return the answers, and whether the linear model gave them `[n]`."""
        scores = self._model.scores(texts)
        by_model = self._answers(texts, scores)
        answers = Answers(self._model.probabilities(scores), np.zeros(len(texts), dtype=bool))
        if not by_model.all():
            rest = np.flatnonzero(~by_model)
            answers.put(rest, self.encoder.answers([texts[place] for place in rest]))
        return answers, by_model

    def _answers(self, texts: Sequence[str], scores: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Whether the linear model answers `[n]`, by its scores `[n, K]` and the pairs of words that are known."""
        sure = self._model.confidence(scores) >= self._threshold
        if self._known is not None:
            for place in np.flatnonzero(sure):
                sure[place] = not self._known.too_few_in(texts[place])
        return sure
