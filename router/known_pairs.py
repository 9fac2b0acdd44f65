"""Which pairs of neighbouring words training's prompts have: what can be told of a text without its encoding."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from router.tokens import head_and_tail

BITS = 2**23
"""A bit for each hash of a pair, 1 MB: of half a million known pairs one in seventeen unknown ones shares one."""

_CHARACTERS_PER_TOKEN = 4  # as of the cascade's linear model
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
_NUMBER = "0"  # any: a number that is new is nothing new
_MIX = np.uint32(2654435761)  # Knuth's multiplier: the order of two words changes the hash of the pair


class KnownPairs:
    """The pairs of words of training's prompts, as bits `[BITS / 8]` at hashes that are the same in every process.

    Single words tell less: those of a story are known from anywhere, one after the other they are not
    (docs/measurements/unfamiliar.md).
    """

    def __init__(self, bits: NDArray[np.uint8], max_tokens: int, most_unknown: float = 1.0) -> None:
        """Of a text as much is read as the encoder reads of `max_tokens`; `most_unknown` is for `too_few_in`."""
        self.bits = bits
        self._characters = max_tokens * _CHARACTERS_PER_TOKEN
        self._most_unknown = most_unknown

    @classmethod
    def of(cls, texts: Iterable[str], max_tokens: int) -> KnownPairs:
        """Learn the pairs of training's prompts."""
        known = np.zeros(BITS, dtype=bool)
        for text in texts:
            known[_pairs(text, max_tokens * _CHARACTERS_PER_TOKEN)] = True
        return cls(np.packbits(known, bitorder="little"), max_tokens)

    def unknown(self, text: str) -> float:
        """Return the share of a text's different pairs that no prompt of training has; 1 for a text without any."""
        pairs = _pairs(text, self._characters)
        if not len(pairs):
            return 1.0
        return 1 - float((self.bits[pairs >> 3] >> (pairs & 7) & 1).mean())

    def too_few_in(self, text: str) -> bool:
        """Whether more of a text's pairs are unknown than the bundle allows."""
        return self.unknown(text) > self._most_unknown


def _pairs(text: str, characters: int) -> NDArray[np.uint32]:
    words = _WORD.findall(head_and_tail(text, characters).lower())
    hashes = np.array(
        [zlib.crc32((_NUMBER if word.isdigit() else word).encode("utf-8", "replace")) for word in words],
        dtype=np.uint32,
    )
    return np.unique((hashes[:-1] * _MIX) ^ hashes[1:]) % np.uint32(BITS)
