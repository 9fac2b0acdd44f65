"""What a router said of the last prompts, so that a repeated one costs nothing."""

from __future__ import annotations

import hashlib

import numpy as np
from cachetools import LRUCache

from router.protocol import Answer

_ENTRY_BYTES = 320  # ours: what an entry weighs beside its numbers, as measured with sys.getsizeof
MOST_BYTES = 16_000_000  # ours: a bundle of 1,000 experts still has 3,700 entries


class PromptMemory:
    """What was answered to the texts that were asked for last, found by an exact match.

    A text is known by a hash of it and of the bundle that answered: no text is kept, and another bundle's answer
    can't be met. Bounded in entries and in bytes; what was not asked for the longest leaves first.
    """

    def __init__(self, bundle: str, entries: int, most_bytes: int = MOST_BYTES) -> None:
        """`bundle` is the bundle's digest; with `entries` 0 nothing is remembered."""
        self._bundle = hashlib.blake2b(bundle.encode(), digest_size=16).digest()
        self._entries = entries
        self._most_bytes = most_bytes
        # Both bounds in one: of `entries` times the bytes, an entry takes its own bytes so often, and all bytes once.
        self._rows: LRUCache[bytes, Answer] = LRUCache(
            entries * most_bytes, getsizeof=lambda answer: max(most_bytes, entries * _bytes_of(answer))
        )

    def __len__(self) -> int:
        """How many texts are remembered."""
        return len(self._rows)

    def get(self, text: str) -> Answer | None:
        """Return the answer to a text, None if it is not remembered."""
        return self._rows.get(self._key(text)) if self._rows else None

    def put(self, text: str, answer: Answer) -> None:
        """Remember the answer to a text; one that is not finite is a failure, and not kept."""
        row = answer.probabilities
        if self._entries and np.isfinite(row).all() and _bytes_of(answer) <= self._most_bytes:
            kept = answer._replace(probabilities=row.copy())  # a view would keep its whole batch
            self._rows[self._key(text)] = kept

    def _key(self, text: str) -> bytes:
        # Lone surrogates, which JSON can carry, are no UTF-8.
        return hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=16, key=self._bundle
        ).digest()


def _bytes_of(answer: Answer) -> int:
    return answer.probabilities.nbytes + _ENTRY_BYTES
