"""What a router makes of prompts while clusters form: log p(k | x_i), which draws rows to clusters it can tell (ours).

An expert helps a row that a router sends to it, and a router sees the prompt alone. So a row goes to the cluster of
the largest cos(g_i, c_k) + readable * log p(k | x_i). p comes from a linear head on the router's encoder, fitted on
rows of other folds: a head that has seen a row would say of its prompt whatever the row's label is.

The head is a ridge regression of the labels' indicators and not section 5.4.2's logistic regression: as clusters move
many are fitted, one costs a tenth, and the clusters are no worse (docs/measurements/readable-clusters.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from training.rows.split import prompt_key

Labels = NDArray[np.int64]

UNKNOWN = -1
"""The label of a row that has none yet."""
_FOLDS = 5
_RIDGE = 1.0  # on standardised embeddings whose kernel has a mean diagonal of 1
_LEAST = 0.01  # chance of a cluster: a regression can say less than nothing
_MOST_ROWS = 20_000  # that teach one head: more of them cost time and say the same
_CHUNK = 65_536  # rows whose logits are computed at once


@dataclass(frozen=True)
class PromptHead:
    """A linear layer from an embedding to K clusters: W [K, H] and b [K]."""

    W: NDArray[np.float32]
    b: NDArray[np.float32]

    def log_chances(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log p(k | x) [n, K] of embeddings [n, H]."""
        return log_chances(embeddings @ self.W.T + self.b)


@dataclass(frozen=True)
class Prompts:
    """Prompts of N rows as the router's encoder reads them.

    embeddings [M, H]: of more rows than these, it may be, and on the disk; rows [N]: which of them are meant;
    folds [N]: the fold of each row, rows of one prompt in one fold.
    """

    embeddings: NDArray[np.float32]
    rows: Labels
    folds: Labels

    def of(self, places: Sequence[int]) -> Prompts:
        """Return the prompts at these places of the N."""
        chosen = np.asarray(places, dtype=np.int64)
        return Prompts(self.embeddings, self.rows[chosen], self.folds[chosen])

    def head(self, labels: Labels, k: int) -> PromptHead:
        """Fit a head to the labels [N] in 0..k-1 of the rows that have one."""
        return self._head(labels, labels != UNKNOWN, k)

    def log_chances(self, labels: Labels, k: int) -> NDArray[np.float32]:
        """Return log p(k | x_i) [N, k]: of a row with a label by a head on the other folds, of others by one on all.

        `labels` [N] are in 0..k-1, or `UNKNOWN`; one row at least has one.
        """
        found = np.empty((len(labels), k), dtype=np.float32)
        known = labels != UNKNOWN
        for fold in range(_FOLDS):
            self._ask(found, known & (self.folds == fold), labels, known & (self.folds != fold))
        self._ask(found, ~known, labels, known)
        return found

    def _ask(
        self, found: NDArray[np.float32], asked: NDArray[np.bool_], labels: Labels, taught: NDArray[np.bool_]
    ) -> None:
        places = np.flatnonzero(asked)
        if not len(places):
            return
        head = self._head(labels, taught, found.shape[1])
        for first in range(0, len(places), _CHUNK):
            chunk = places[first : first + _CHUNK]
            found[chunk] = head.log_chances(self.embeddings[self.rows[chunk]])

    def _head(self, labels: Labels, taught: NDArray[np.bool_], k: int) -> PromptHead:
        places = np.flatnonzero(taught)
        width = self.embeddings.shape[1]
        if k == 1 or not len(places):
            return PromptHead(np.zeros((k, width), np.float32), np.zeros(k, np.float32))
        if len(places) > _MOST_ROWS:
            places = np.sort(np.random.default_rng(0).choice(places, _MOST_ROWS, replace=False))
        return _fitted(self.embeddings[self.rows[places]].astype(np.float64), labels[places], k)


def in_folds(
    embeddings: NDArray[np.float32], rows: Sequence[int], texts: Sequence[str], seed: int
) -> Prompts:
    """Put rows [N] of embeddings [M, H] into folds by the texts [N] that are routed, rows of one text together."""
    _, text = np.unique([prompt_key(text) for text in texts], return_inverse=True)  # [N], number of the text
    shuffled = np.random.default_rng(seed).permutation(int(text.max(initial=-1)) + 1)
    return Prompts(embeddings, np.asarray(rows, dtype=np.int64), (shuffled[text] % _FOLDS).astype(np.int64))


def log_chances(shares: NDArray[np.floating]) -> NDArray[np.float32]:
    """Make logarithms of probabilities [n, K] of shares [n, K] that a regression expects."""
    chances = np.maximum(shares, _LEAST)
    return np.log(chances / chances.sum(1, keepdims=True)).astype(np.float32)


def _fitted(embeddings: NDArray[np.float64], labels: Labels, k: int) -> PromptHead:
    scaler = StandardScaler().fit(embeddings)
    solved = Ridge(alpha=_RIDGE * embeddings.shape[1]).fit(scaler.transform(embeddings), np.eye(k)[labels])
    weights = solved.coef_ / scaler.scale_  # [k, H]
    return PromptHead(
        weights.astype(np.float32), (solved.intercept_ - weights @ scaler.mean_).astype(np.float32)
    )
