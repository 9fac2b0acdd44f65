"""The semantic router: a frozen text encoder and one linear layer, in one ONNX graph (section 5.4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Kept
from router.encoder_graph import LOGITS, EncoderGraph
from router.familiarity import Familiarity, unfamiliar
from router.protocol import Answers, Router
from router.softmax import softmax


class SemanticRouter(Router):
    """softmax((W h + b) / temperature), h the mean-pooled encoding of the text."""

    def __init__(
        self,
        folder: Path,
        labels: tuple[str, ...],
        max_tokens: int,
        temperature: float,
        threads: int = 1,
        keeps: Kept = "head_and_tail",
        familiarity: Familiarity | None = None,
    ) -> None:
        """Open the router's files in `folder`; `threads` is what one forward pass may use.

        Without a `familiarity` no text is unfamiliar.

        Raises:
            BundleError: the graph or the tokenizer can't be read, or has other outputs than `labels`.

        """
        self.labels = labels
        self._temperature = temperature
        self._familiarity = familiarity
        outputs = {LOGITS: len(labels)} | (familiarity.reads if familiarity else {})
        self._graph = EncoderGraph(folder, outputs, max_tokens, threads, keeps)

    def scores(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return W h + b `[n, K]`; each row depends on its own text only."""
        return self._graph.run(texts)[LOGITS]

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one and depends on its own text only."""
        return self.answers(texts).probabilities

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the probabilities, and which texts are unfamiliar, from one pass of the encoder."""
        found = self._graph.run(texts)
        return Answers(softmax(found[LOGITS], self._temperature), unfamiliar(found, self._familiarity))
