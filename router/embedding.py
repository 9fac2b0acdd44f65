"""The paper's ES (Table 3): the cosine between a text's encoding and each expert's mean encoding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Kept
from router.encoder_graph import ENCODING, EncoderGraph
from router.familiarity import Familiarity, unfamiliar
from router.head_file import read_head
from router.protocol import Answers, Router
from router.softmax import softmax


class EmbeddingRouter(Router):
    """softmax(cos(h, mean_k) / temperature), h the mean-pooled encoding of the text."""

    def __init__(
        self,
        folder: Path,
        head: Path,
        shown: str,
        labels: tuple[str, ...],
        max_tokens: int,
        temperature: float,
        threads: int = 1,
        keeps: Kept = "head_and_tail",
        familiarity: Familiarity | None = None,
    ) -> None:
        """Open the encoder in `folder` and the unit means W [K, H] in `head`, which a user knows as `shown`.

        Without a `familiarity` no text is unfamiliar.

        Raises:
            BundleError: a file can't be read, or is of other experts or another encoder.

        """
        self.labels = labels
        self._temperature = temperature
        self._means = read_head(head, shown, labels)[0]["W"]
        self._familiarity = familiarity
        outputs = {ENCODING: self._means.shape[1]} | (familiarity.reads if familiarity else {})
        self._graph = EncoderGraph(folder, outputs, max_tokens, threads, keeps)

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the cosines `[n, K]`; each row depends on its own text only."""
        return cosines(self._graph.run(texts)[ENCODING], self._means)

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one and depends on its own text only."""
        return self.answers(texts).probabilities

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the probabilities, and which texts are unfamiliar, from one pass of the encoder."""
        found = self._graph.run(texts)
        scores = cosines(found[ENCODING], self._means)
        return Answers(softmax(scores, self._temperature), unfamiliar(found, self._familiarity))


def cosines(embeddings: NDArray[np.float32], means: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return `[n, K]` for embeddings `[n, H]` and unit means `[K, H]`; 0 for a text without any token."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (embeddings / np.maximum(norms, np.finfo(np.float32).tiny)) @ means.T
