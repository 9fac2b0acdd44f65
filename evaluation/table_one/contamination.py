"""Do test rows stand in the training rows already? Word for word, 13 words at a time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_WORDS = 13  # anchor: the length that language models' contamination checks commonly take


def shared_grams(train: Iterable[str], test: Iterable[str]) -> list[int]:
    """Return, for every test text, how many of its runs of 13 words occur in some training text too."""
    known = {gram for text in train for gram in _grams(text)}
    return [sum(gram in known for gram in _grams(text)) for text in test]


def _grams(text: str) -> Iterator[str]:
    words = re.findall(r"\w+", text.lower())
    for start in range(len(words) - _WORDS + 1):
        yield " ".join(words[start : start + _WORDS])
