"""The router's trainable part: one linear layer to the K experts, and how far to believe it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bundle.manifest import Calibration
from training.rows.split import prompt_key, whole_prompts

_STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 10.0)
"""scikit-learn's C on standardised features, strongest first."""
_HELD_OUT = 0.2
_FEWEST_HELD_OUT = 20
_TEMPERATURES = (0.05, 20.0)

Labels = NDArray[np.integer]


@dataclass(frozen=True)
class Head:
    """phi = {W, b} of section 5.4.2: logits = h Wᵀ + b."""

    W: NDArray[np.float32]
    """`[K, H]`."""
    b: NDArray[np.float32]
    """`[K]`."""

    def logits(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `[n, K]` for embeddings `[n, H]`."""
        return embeddings @ self.W.T + self.b


def fit_head(embeddings: NDArray[np.float32], labels: Labels, k: int, seed: int) -> Head:
    """Minimise section 5.4.2's cross-entropy of `labels` `[n]` in 0..k-1 given `embeddings` `[n, H]`.

    The problem is convex, so it is solved rather than trained: multinomial logistic regression by
    L-BFGS, on standardised features for conditioning, the scaling folded back into W and b.
    The L2 strength is the strongest whose cross-entropy on a seeded fifth of the rows lies within one standard
    error of the lowest (the strongest of all, while there are too few rows to tell); then all rows are fitted
    with it. What it gives away can't be told from chance there, and where two labels are about as likely a smaller
    head decides by what is steady, so int8 and the cascade can say the same (docs/router.md).

    One more row at the mean embedding, shared evenly by all K labels, keeps the solution finite where
    a label has no row: such a label gets an output of small probability, not none.

    Raises:
        ValueError: there are no rows, or a label is outside 0..k-1.

    """
    if len(labels) == 0:
        raise ValueError("The router needs at least one row to learn from")
    if labels.min() < 0 or labels.max() >= k:
        raise ValueError(f"Labels must lie in 0..{k - 1}, found {labels.min()}..{labels.max()}")
    if k == 1:
        return Head(np.zeros((1, embeddings.shape[1]), np.float32), np.zeros(1, np.float32))
    scaler = StandardScaler().fit(embeddings.astype(np.float64))
    features = scaler.transform(embeddings.astype(np.float64))
    solved = _solve(features, labels, k, _best_strength(features, labels, k, seed))
    # scikit-learn gives two classes one row of coefficients: the second's, against a first of zero.
    coefficients = np.vstack([0 * solved.coef_, solved.coef_]) if k == 2 else solved.coef_
    intercepts = np.append(0.0, solved.intercept_) if k == 2 else solved.intercept_
    weights = coefficients / scaler.scale_
    return Head(weights.astype(np.float32), (intercepts - weights @ scaler.mean_).astype(np.float32))


def _solve(features: NDArray[np.float64], labels: Labels, k: int, strength: float) -> LogisticRegression:
    rows = np.vstack([features, np.zeros((k, features.shape[1]))])  # standardised: the mean is zero
    targets = np.concatenate([labels, np.arange(k)])
    shares = np.concatenate([np.ones(len(labels)), np.full(k, 1 / k)])
    return LogisticRegression(C=strength, max_iter=2000).fit(rows, targets, sample_weight=shares)


def _best_strength(features: NDArray[np.float64], labels: Labels, k: int, seed: int) -> float:
    held_out = int(_HELD_OUT * len(labels))
    if held_out < _FEWEST_HELD_OUT:
        return _STRENGTHS[0]
    order = np.random.default_rng(seed).permutation(len(labels))
    inner, outer = order[held_out:], order[:held_out]
    losses: list[NDArray[np.float64]] = []
    for strength in _STRENGTHS:
        solved = _solve(features[inner], labels[inner], k, strength)
        losses.append(_losses(solved.predict_log_proba(features[outer]), labels[outer]))
        if len(losses) > 1 and losses[-1].mean() >= losses[-2].mean():
            break  # along the path the held-out loss falls, then rises
    lowest = min(losses, key=lambda each: float(each.mean()))
    bound = lowest.mean() + lowest.std() / np.sqrt(held_out)
    return next(strength for strength, each in zip(_STRENGTHS, losses, strict=False) if each.mean() <= bound)


def fit_temperature(logits: NDArray[np.floating], labels: Labels) -> float:
    """Return the scalar T in [0.05, 20] that minimises the cross-entropy of softmax(logits / T).

    `logits` `[n, K]` and `labels` `[n]` are of held-out rows. The argmax of section 5.4.2 stays the
    same; what changes is how far a probability can be believed. As in `fit_head`, one more row is shared
    evenly by all labels: where every held-out row is right, no finite T would be the best.

    Raises:
        ValueError: there are no rows.

    """
    _refuse_no_rows(labels)

    def loss(log_temperature: float) -> float:
        log_probabilities = log_softmax(logits / np.exp(log_temperature), axis=1)
        return _cross_entropy(log_probabilities, labels) - float(log_probabilities.mean()) / len(labels)

    found = minimize_scalar(loss, bounds=tuple(np.log(_TEMPERATURES)), method="bounded")
    return float(np.exp(found.x))


def agreement(logits: NDArray[np.floating], labels: Labels) -> float:
    """Return the share of held-out rows whose argmax is their Stage II label (section 5.4.2, Table 3).

    `logits` `[n, K]`, `labels` `[n]`.

    Raises:
        ValueError: there are no rows.

    """
    _refuse_no_rows(labels)
    return float(np.mean(logits.argmax(axis=1) == labels))


def drawn_half(texts: Sequence[str], seed: int) -> NDArray[np.bool_]:
    """Mark the seeded half of held-out rows that temperature and thresholds are fitted on: no text stands in both."""
    fitted = np.zeros(len(texts), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(texts)).tolist()
    keys = [prompt_key(text) for text in texts]
    fitted[whole_prompts(order, len(texts) // 2, keys) or order[: len(texts) // 2]] = True
    return fitted


def calibrated(
    head: Head, embeddings: NDArray[np.float32], labels: Labels, fitted: NDArray[np.bool_]
) -> Calibration:
    """Return the temperature fitted on some held-out rows, and the figures of the others.

    `embeddings` `[n, H]`, `labels` `[n]`; `fitted` `[n]` marks the rows for the temperature.

    Raises:
        ValueError: there are no rows of one sort.

    """
    logits = head.logits(embeddings)
    return Calibration(
        temperature=fit_temperature(logits[fitted], labels[fitted]),
        held_out_rows=int((~fitted).sum()),
        fitted_rows=int(fitted.sum()),
        agreement=agreement(logits[~fitted], labels[~fitted]),
    )


def _cross_entropy(log_probabilities: NDArray[np.floating], labels: Labels) -> float:
    return float(np.mean(_losses(log_probabilities, labels)))


def _losses(log_probabilities: NDArray[np.floating], labels: Labels) -> NDArray[np.float64]:
    return -log_probabilities[np.arange(len(labels)), labels].astype(np.float64)


def _refuse_no_rows(labels: Labels) -> None:
    if len(labels) == 0:
        raise ValueError("The router can't be judged without held-out rows")
