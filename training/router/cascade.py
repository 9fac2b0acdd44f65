"""Fit the cascade's linear model to the encoder's own scores, and decide when it may answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold

from bundle.manifest import CascadeRecord
from router.cascade import CHARACTERS_PER_TOKEN, margins, scores_of
from router.hashed_words import BUCKETS, hashed_words
from training.progress import Narrator
from training.router.head import fit_temperature
from training.router.precision import ChosenPrecision
from training.router.quality import MOST_LOST, RouterScores, surest_share
from training.router.rows import JudgedRows

AGREES = 0.995
"""How often the linear model must say what the encoder says, where it answers."""
USEFUL_SHARE = 0.1
"""Of the texts; below it, a second model and its file are not worth having."""
_PENALTY = 0.1  # Ridge's alpha, on rows of length one
_FOLDS = 5
LEAST_ROWS = 2 * _FOLDS
"""Held-out rows, below which a model of its own decisions can't even be tried."""
_MOST_CONFIDENT = 1 - 1e-9  # a margin can round it to 1, which would be no threshold


@dataclass(frozen=True)
class Cascade:
    """A fitted model and when it answers; `columns` is W transposed `[buckets, K]`, `bias` `[K]`."""

    columns: NDArray[np.float32]
    bias: NDArray[np.float32]
    scale: float
    shift: float
    temperature: float
    threshold: float | None
    """None: it can't be shown to agree often enough."""
    own_scores: RouterScores
    """Of the rows that the threshold was chosen on `[m, K]`, each by a model that had not seen it."""

    def scores(self, words: Sequence[NDArray[np.uint32]]) -> RouterScores:
        """As the served model's, of texts' hashed words: `[n, K]`."""
        return scores_of(words, self.columns, self.bias)

    def confidence(self, scores: RouterScores) -> NDArray[np.float64]:
        """As the served model's."""
        return 1 / (1 + np.exp(-(self.scale * margins(scores) + self.shift)))

    def answers(self, scores: RouterScores) -> NDArray[np.bool_]:
        """Whether it answers `[n]`."""
        if self.threshold is None:
            return np.zeros(len(scores), dtype=bool)
        return self.confidence(scores) >= self.threshold

    def write(self, path: Path, label_order: tuple[str, ...]) -> None:
        """Write the file that `router.cascade.HashedWordsModel` opens."""
        save_file(
            {
                "W": np.ascontiguousarray(self.columns.T),
                "b": self.bias,
                "calibration": np.array([self.scale, self.shift, self.temperature], dtype=np.float64),
            },
            path,
            metadata={"labels": json.dumps(list(label_order))},
        )


def words_of(texts: Sequence[str], max_tokens: int) -> list[NDArray[np.uint32]]:
    """Return the hashed words of each text, as the service reads them."""
    return [hashed_words(text, max_tokens * CHARACTERS_PER_TOKEN) for text in texts]


def fit_cascade(
    known: Sequence[NDArray[np.uint32]],
    known_scores: RouterScores,
    unseen: Sequence[NDArray[np.uint32]],
    unseen_scores: RouterScores,
    labels: NDArray[np.int64],
    seed: int,
) -> Cascade:
    """Fit the model to the encoder's scores on two lots of rows, and its threshold on the second lot.

    `known` are the training rows' words, `unseen` those of held-out rows with `labels` `[m]`; scores are the
    encoder's `[N, K]` and `[m, K]`. They tell more than its decisions: a row that the encoder itself is unsure of
    comes out with a small margin. Ridge regression, on rows of length one. For the threshold each held-out row is
    scored by a model fitted without it (five folds), so all rows serve both ends.
    """
    columns, bias = _fit([*known, *unseen], np.vstack([known_scores, unseen_scores]))
    own = np.zeros_like(unseen_scores)
    for inner, outer in KFold(_FOLDS, shuffle=True, random_state=seed).split(unseen_scores):
        fold = _fit(
            [*known, *(unseen[place] for place in inner)], np.vstack([known_scores, unseen_scores[inner]])
        )
        own[outer] = scores_of([unseen[place] for place in outer], *fold)
    agrees = own.argmax(axis=1) == unseen_scores.argmax(axis=1)
    margin = margins(own)
    scale, shift = _confidence(margin, agrees)
    confidence = 1 / (1 + np.exp(-(scale * margin + shift)))
    threshold = surest_share(confidence, agrees, AGREES) if scale > 0 else None
    if threshold is not None:
        threshold = min(threshold, _MOST_CONFIDENT)
    sure = np.ones(len(own), dtype=bool) if threshold is None else confidence >= threshold
    temperature = fit_temperature(own[sure], labels[sure])
    return Cascade(columns, bias, scale, shift, temperature, threshold, own)


def _fit(
    words: Sequence[NDArray[np.uint32]], scores: RouterScores
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return W transposed `[buckets, K]` and b `[K]`."""
    counts = [len(buckets) for buckets in words]
    values = np.repeat(1 / np.sqrt(np.maximum(counts, 1)), counts)
    places = np.concatenate([[0], np.cumsum(counts)])
    rows = csr_matrix((values, np.concatenate(words), places), shape=(len(words), BUCKETS))
    solved = Ridge(alpha=_PENALTY, solver="sparse_cg").fit(rows, scores - scores.mean(axis=1, keepdims=True))
    return np.ascontiguousarray(solved.coef_.T, dtype=np.float32), solved.intercept_.astype(np.float32)


def _confidence(margin: NDArray[np.float64], agrees: NDArray[np.bool_]) -> tuple[float, float]:
    """Platt's two numbers: from a margin to the probability that the encoder agrees."""
    if agrees.all() or not agrees.any():
        return 1.0, 0.0  # nothing to tell apart; the order, which the threshold goes by, is the margin's
    solved = LogisticRegression(C=np.inf).fit(margin[:, None], agrees)
    return float(solved.coef_[0, 0]), float(solved.intercept_[0])


@dataclass(frozen=True)
class JudgedCascade:
    """Whether a cascade is used, and what it was found to be worth; all None where none was fitted."""

    used: CascadeRecord | None
    found: dict[str, Any] | None
    scores: RouterScores | None
    """Of all held-out rows [n, K], none by a model that was fitted to its row."""


def judge_cascade(
    cascade: Cascade | None,
    held_out: JudgedRows,
    encoder: ChosenPrecision,
    float32: RouterScores,
    enough: NDArray[np.bool_],
    max_tokens: int,
    narrator: Narrator,
) -> JudgedCascade:
    """Say on the rows that chose nothing what the cascade is worth, and whether it is.

    It leaves to the encoder what it is not sure of, and rows without `enough` known pairs of words `[n]`
    (router/cascade.py).
    What is lost is measured against the encoder's scores in `float32` `[n, K]`, so what int8 costs counts as well.
    """
    if cascade is None:
        return JudgedCascade(None, None, None)
    others = ~held_out.fitted
    own = np.zeros_like(float32)
    own[held_out.fitted] = cascade.own_scores
    own[others] = cascade.scores(
        words_of([held_out.texts[place] for place in np.flatnonzero(others)], max_tokens)
    )
    sure = cascade.answers(own[others]) & enough[others]
    linear, labels = own[others].argmax(1), held_out.labels[others]
    same = linear == encoder.scores[others].argmax(1)
    share = float(sure.mean())
    agreement = float(same[sure].mean()) if sure.any() else 0.0
    served = np.where(sure, linear, encoder.scores[others].argmax(1))
    lost = float((float32[others].argmax(1) == labels).mean() - (served == labels).mean())
    reason = _why_not(cascade, share, lost)
    confidence = cascade.confidence(own[others])
    order = np.argsort(-confidence, kind="stable")
    curve = [
        {"share": count / len(order), "agreement": float(same[order[:count]].mean())}
        for count in (max(1, round(tenth * len(order) / 10)) for tenth in range(1, 11))
    ]
    found = {"share": share, "agreement": agreement, "lost": lost, "reason": reason, "curve": curve}
    if reason:
        narrator.say(f"    no cascade: {reason}")
        return JudgedCascade(None, found, None)
    narrator.say(
        f"    the cascade answers {share:.1%} and says what the encoder says on {agreement:.2%} of them; it costs "
        f"{100 * lost:.2f} points of agreement with the clusters"
    )
    assert cascade.threshold is not None
    used = CascadeRecord(
        threshold=cascade.threshold, share=share, agreement=agreement, rows=int(others.sum())
    )
    return JudgedCascade(used, found, own)


def _why_not(cascade: Cascade, share: float, lost: float) -> str | None:
    if cascade.threshold is None:
        return (
            f"the {len(cascade.own_scores):,} held-out rows for it don't show {AGREES:.1%} agreement with the encoder "
            "at any confidence"
        )
    if share < USEFUL_SHARE:
        return f"it would answer only {share:.1%} of the rows, less than {USEFUL_SHARE:.0%}"
    if lost > MOST_LOST:
        return f"it would cost {100 * lost:.2f} points of agreement with the clusters, more than {100 * MOST_LOST:.1f}"
    return None
