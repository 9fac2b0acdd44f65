"""Texts as hashed words: what a linear model reads in the time that an encoder takes to begin.

Words are hashed, not looked up, so nothing is fitted and nothing is stored; CRC-32 is the same in every process.
"""

from __future__ import annotations

import re
import zlib

import numpy as np
from numpy.typing import NDArray

from router.tokens import head_and_tail

BUCKETS = 2**16
"""Columns of a linear model over hashed words; few words share one, and a model of K experts stays at K/4 MB."""

_WORD = re.compile(r"\w+|[^\w\s]")
_MIX = np.uint32(2654435761)  # Knuth's multiplier: the order of two words changes the hash of the pair


def hashed_words(text: str, characters: int) -> NDArray[np.uint32]:
    """Return the buckets, each once, of a text's words, pairs and triples of neighbouring words.

    A word is a run of letters and digits in lower case, or one other sign. Of a text of more than `characters` the
    head and the tail are read.
    """
    words = _WORD.findall(head_and_tail(text, characters).lower())
    singles = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], dtype=np.uint32)
    pairs = (singles[:-1] * _MIX) ^ singles[1:]
    triples = (pairs[:-1] * _MIX) ^ singles[2:]
    return np.unique(np.concatenate([singles, pairs, triples]) % np.uint32(BUCKETS))
