"""The paper's KS (Table 3): the words that a text shares with each expert's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bundle.errors import BundleError
from router.head_file import read_head
from router.known_pairs import KnownPairs
from router.protocol import Answers, Router
from router.softmax import softmax
from router.tokens import head_and_tail

_WORD = re.compile(r"\w+")
_CHARACTERS_PER_TOKEN = 4


class KeywordRouter(Router):
    """softmax(shared words / temperature): W [K, V] says which of V keywords are expert k's."""

    def __init__(
        self,
        head: Path,
        shown: str,
        labels: tuple[str, ...],
        max_tokens: int,
        temperature: float,
        known: KnownPairs | None = None,
    ) -> None:
        """Open the keywords in `head`, which a user knows as `shown`; without `known` no text is unfamiliar.

        Raises:
            BundleError: it can't be read, or is of other experts.

        """
        self.labels = labels
        self._temperature = temperature
        self._known = known
        tensors, metadata = read_head(head, shown, labels)
        words = json.loads(metadata.get("keywords", "[]"))
        self._weights = tensors["W"]
        if len(words) != self._weights.shape[1]:
            problem = f"it has {self._weights.shape[1]} columns for {len(words)} keywords"
            raise BundleError(shown, "W", problem, "Train the bundle again")
        self._column = {word: column for column, word in enumerate(words)}
        self._characters = max_tokens * _CHARACTERS_PER_TOKEN

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one. A text without any keyword goes to nobody more than to others."""
        cut = [head_and_tail(text, self._characters) for text in texts]
        return softmax(shared_words(cut, self._column, self._weights), self._temperature)

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the probabilities, and which texts have too many pairs of words that are new."""
        unfamiliar = [self._known is not None and self._known.too_few_in(text) for text in texts]
        return Answers(self.probabilities(texts), np.array(unfamiliar, dtype=bool))


def shared_words(
    texts: Sequence[str], column: Mapping[str, int], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Count the different words of each text that are each expert's `[n, K]`; weights are `[K, V]`."""
    counts = np.zeros((len(texts), len(weights)), dtype=np.float32)
    for place, text in enumerate(texts):
        columns = [column[word] for word in set(_WORD.findall(text.lower())) if word in column]
        counts[place] = weights[:, columns].sum(axis=1)
    return counts
