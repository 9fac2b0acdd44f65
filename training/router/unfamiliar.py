"""Fit what tells that a prompt is unlike anything in training, and how much of it held-out rows have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sklearn.cluster import KMeans
from sklearn.covariance import LedoitWolf

from bundle.manifest import UnfamiliarRecord
from router.familiarity import Familiarity
from router.known_pairs import KnownPairs
from training.progress import Narrator
from training.router.rows import JudgedRows

FAMILIAR = 0.98
"""ours: the share of held-out rows that are to lie within the threshold."""
KNOWN = 0.95
"""ours: the share of held-out rows of which a cascade's linear model is to know enough pairs of words to answer."""
PROTOTYPES = 16
"""ours."""
_FITTED_ROWS = 20_000  # a covariance of 768 features is known from far fewer; more pairs would fill the bits
_SMALLEST_VARIANCE = 1e-6  # of directions, whose variances sum to at most one


@dataclass(frozen=True)
class Vocabulary:
    """Training's pairs of words, and the share of each held-out row's `[n]` that are not among them."""

    known: KnownPairs
    unknown: NDArray[np.float64]
    most_unknown: float
    """The share up to which a text's pairs are known well enough."""

    @property
    def enough(self) -> NDArray[np.bool_]:
        """Which held-out rows `[n]` have enough known pairs."""
        return self.unknown <= self.most_unknown


def fit_vocabulary(
    texts: Sequence[str], held_out: JudgedRows, max_tokens: int, share: float, seed: int
) -> Vocabulary:
    """Learn the pairs of training's `texts`; of unknown ones a `share` of held-out rows has no more than is allowed."""
    known = KnownPairs.of([texts[row] for row in _drawn(len(texts), seed)], max_tokens)
    unknown = np.array([known.unknown(text) for text in held_out.texts])
    return Vocabulary(known, unknown, threshold_of(unknown[held_out.fitted], share))


def fit_familiarity(
    embeddings: NDArray[np.float32], seed: int, prototypes: int = PROTOTYPES
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return whitening `[H, H]` and whitened prototypes `[P, H]` of training's encodings `[N, H]`.

    The prototypes are K-means centres of the directions, the covariance around them is shrunk by Ledoit and Wolf's
    rule: of 384 features and a few hundred rows the plain one can't be inverted.
    """
    drawn = embeddings[_drawn(len(embeddings), seed)]
    lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
    directions = (drawn / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float64)
    count = min(prototypes, len(np.unique(directions, axis=0)))
    grouped = KMeans(count, n_init=1, random_state=seed).fit(directions)
    around = directions - grouped.cluster_centers_[grouped.labels_]
    variances, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(around).covariance_)
    whitening = axes / np.sqrt(np.maximum(variances, _SMALLEST_VARIANCE))  # [H, H]
    return whitening.astype(np.float32), (grouped.cluster_centers_ @ whitening).astype(np.float32)


def _drawn(rows: int, seed: int) -> NDArray[np.intp]:
    """Return the rows that are learned from: all, or as many as are enough."""
    if rows <= _FITTED_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, _FITTED_ROWS, replace=False))


def threshold_of(distances: NDArray[np.floating], share: float) -> float:
    """Return what a further row's distance exceeds with a probability of 1 - share, from such rows' distances `[n]`.

    That is an order statistic, so it holds for any distribution (conformal prediction); of fewer rows than it takes it
    is the largest.
    """
    place = min(math.ceil((len(distances) + 1) * share), len(distances))
    return float(np.sort(distances)[place - 1])


@dataclass(frozen=True)
class Encodings:
    """Of training's prompts `[N, H]`, and of the held-out rows `[n, H]` as they will be served."""

    known: NDArray[np.float32]
    held_out: NDArray[np.float32]


def judge_unfamiliar(
    path: Path,
    answers: Literal["fallback", "base"],
    held_out: JudgedRows,
    encodings: Encodings | None,
    vocabulary: Vocabulary | None,
    seed: int,
    narrator: Narrator,
) -> UnfamiliarRecord:
    """Write the file that tells what is unfamiliar to `path`, and return what the manifest says of it.

    A router without `encodings` goes by the `vocabulary`; else that is a cascade's, if there is one. The threshold is
    of one half of the held-out rows, and of the other half it is said how many are caught: wrongly, all of them.

    Raises:
        ValueError: there is neither.

    """
    tensors: dict[str, NDArray[Any]] = {}
    if vocabulary is not None:
        tensors["pairs"] = vocabulary.known.bits
    if encodings is not None:
        whitening, prototypes = fit_familiarity(encodings.known, seed)
        tensors |= {"whitening": whitening, "prototypes": prototypes}
        distances = Familiarity(whitening, prototypes).distances(encodings.held_out).astype(np.float64)
        threshold = threshold_of(distances[held_out.fitted], FAMILIAR)
    elif vocabulary is not None:
        distances, threshold = vocabulary.unknown, vocabulary.most_unknown
    else:
        raise ValueError("neither encodings nor words to go by")
    others = distances[~held_out.fitted]
    record = UnfamiliarRecord(
        by="word_pairs" if encodings is None else "encoding",
        answers=answers,
        threshold=threshold,
        quantile=FAMILIAR,
        most_unknown=vocabulary.most_unknown if vocabulary and encodings else None,
        caught=float((others > threshold).mean()),
        rows=len(others),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    narrator.say(
        f"    what is unlike training's prompts goes to the {answers}: {record.caught:.1%} of {record.rows:,} held-out "
        "rows would"
    )
    return record
