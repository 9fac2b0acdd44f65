"""Texts to padded token ids: one way, shared by the router in serving and its encoder in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bundle.manifest import Kept

_CHARACTERS_PER_TOKEN = (
    16  # no text has as many on average; all of a long one would be tokenised for its ends
)
_BATCH_TOKENS = 4096  # padded tokens of one forward pass: bounds memory, and fills a CPU's caches


def head_and_tail(text: str, characters: int) -> str:
    """Return a text of at most `characters`: half of them its beginning, half its end, a space between."""
    if len(text) <= characters:
        return text
    half = (characters - 1) // 2
    return f"{text[: characters - 1 - half]} {text[-half:]}"


class TextTokens:
    """A tokenizer that cuts texts to a number of tokens and pads on the right, only as far as needed.

    The rule for a longer text (`keeps`): `head` keeps its first tokens; `head_and_tail` keeps its first half and
    its last half of what fits, the odd token in front. Special tokens count and are kept. Before it is tokenised, a
    text of more than 16 characters per token is cut by characters in the same way: 1 MB costs what 4 kB do.
    """

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, keeps: Kept = "head_and_tail") -> None:
        """Take a copy of `tokenizer`; its pad id is read from its padding setting (0 if it has none)."""
        own = Tokenizer.from_str(tokenizer.to_str())
        self._pad_id = int(own.padding["pad_id"]) if own.padding else 0
        own.no_padding()
        own.no_truncation()
        self._tokenizer = own
        self._keeps = keeps
        self._max_tokens = max_tokens
        self._before, self._after = _special_tokens_around(own)
        self._max_characters = max_tokens * _CHARACTERS_PER_TOKEN

    def batches(
        self, texts: Sequence[str]
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.int64], NDArray[np.int64]]]:
        """Yield batches of texts of similar length: (their places `[B]`, input ids and mask `[B, T]`).

        Rows of no token at all are legal: they are padding only, with a mask of zeros.
        """
        encodings = self._tokenizer.encode_batch([_encodable(self._cut(text)) for text in texts])
        rows = [self._fitted(encoding.ids) for encoding in encodings]
        places = np.argsort([len(row) for row in rows], kind="stable")
        start = 0
        while start < len(places):
            end = start + 1
            while end < len(places) and (end + 1 - start) * max(len(rows[places[end]]), 1) <= _BATCH_TOKENS:
                end += 1
            batch = places[start:end]
            yield (batch, *self._padded([rows[place] for place in batch]))
            start = end

    def _cut(self, text: str) -> str:
        if self._keeps == "head":
            return text[: self._max_characters]
        return head_and_tail(text, self._max_characters)

    def _fitted(self, ids: Sequence[int]) -> Sequence[int]:
        if len(ids) <= self._max_tokens:
            return ids
        last = self._max_tokens - self._after  # places in front of the special tokens at the end
        tail = (last - self._before) // 2 if self._keeps == "head_and_tail" else 0
        return [*ids[: last - tail], *ids[len(ids) - self._after - tail :]]

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        length = max(1, *(len(row) for row in rows))  # a tensor without columns is no input for an encoder
        ids = np.full((len(rows), length), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        return ids, mask


def _special_tokens_around(tokenizer: Tokenizer) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before a text, and how many behind it."""
    added = tokenizer.num_special_tokens_to_add(False)
    alone = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    before = next((n for n in range(added) if whole[n : n + len(alone)] == alone), added)
    return before, added - before


def _encodable(text: str) -> str:
    r"""Replace lone surrogates, which JSON can carry (`"\ud800"`) and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")
