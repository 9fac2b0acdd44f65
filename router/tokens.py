"""Texts to padded token ids: one way, shared by the router in serving and its encoder in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

_CHARACTERS_PER_TOKEN = (
    64  # no text has as many on average; all of a long one would be tokenised for its start
)
_BATCH_TOKENS = 4096  # padded tokens of one forward pass: bounds memory, and fills a CPU's caches


class TextTokens:
    """A tokenizer that truncates to a number of tokens and pads on the right, only as far as needed."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        """Take a copy of `tokenizer`; its pad id is read from its padding setting (0 if it has none).

        `max_tokens` counts the special tokens, which are kept; the text loses its end.
        """
        own = Tokenizer.from_str(tokenizer.to_str())
        self._pad_id = int(own.padding["pad_id"]) if own.padding else 0
        own.no_padding()
        own.enable_truncation(max_tokens)
        self._tokenizer = own
        self._max_characters = max_tokens * _CHARACTERS_PER_TOKEN

    def batches(
        self, texts: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield batches of texts of similar length: (their places `[B]`, input ids and mask `[B, T]`).

        Rows of no token at all are legal: they are padding only, with a mask of zeros.
        """
        rows = [
            encoding.ids
            for encoding in self._tokenizer.encode_batch(
                [_encodable(text[: self._max_characters]) for text in texts]
            )
        ]
        places = np.argsort([len(row) for row in rows], kind="stable")
        start = 0
        while start < len(places):
            end = start + 1
            while end < len(places) and (end + 1 - start) * max(len(rows[places[end]]), 1) <= _BATCH_TOKENS:
                end += 1
            batch = places[start:end]
            yield (batch, *self._padded([rows[place] for place in batch]))
            start = end

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        length = max(1, *(len(row) for row in rows))  # a tensor without columns is no input for an encoder
        ids = np.full((len(rows), length), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        return ids, mask


def _encodable(text: str) -> str:
    r"""Replace lone surrogates, which JSON can carry (`"\ud800"`) and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
