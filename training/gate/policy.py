"""Who answers what, decided by measured loss: the fallback everywhere, or an expert where the router is sure enough.

Everything here is arithmetic on two arrays of n held-out rows: `losses` [n, 1 + K], the fallback's first, in a unit
whose mean over the rows is what counts; and `probabilities` [n, K], the router's. The two policies are nested:
thresholds of `NEVER` are the fallback everywhere. None of this is the paper's, which serves every expert.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

NEVER = np.inf
"""The threshold of an expert that never answers."""
GRID = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Ours: confidences from which on an expert may answer. Few, as each more is a chance to choose by noise."""
FEWEST_ROWS = 8
"""Ours: on fewer rows a standard error is itself a guess, so an expert is not judged, and not served."""
FOLDS = 5
_RESAMPLES = 2000

Losses = NDArray[np.float64]
Probabilities = NDArray[np.floating]
Thresholds = NDArray[np.float64]


def gains(losses: Losses, probabilities: Probabilities) -> NDArray[np.float64]:
    """Return the loss of the expert that the router chooses less the fallback's [n]; below 0 it helps."""
    rows = np.arange(len(losses))
    return losses[rows, 1 + probabilities.argmax(1)] - losses[:, 0]


def served(losses: Losses, probabilities: Probabilities, thresholds: Thresholds) -> NDArray[np.float64]:
    """Return the loss as served less the fallback's [n], under thresholds [K]: 0 wherever the fallback answers."""
    answers = probabilities.max(1) >= thresholds[probabilities.argmax(1)]
    return np.where(answers, gains(losses, probabilities), 0.0)


def choose_thresholds(losses: Losses, probabilities: Probabilities) -> Thresholds:
    """Return for each expert the confidence from which on it is to answer [K].

    Of the rows that the router gives it, the sum of its gains is looked at for every threshold of the grid. Taken is
    not the lowest sum but what is simplest within one standard error of it: that it never answers, else that it
    always does, else the highest such threshold.
    """
    chosen, confidence = probabilities.argmax(1), probabilities.max(1)
    every = gains(losses, probabilities)
    return np.array(
        [
            _threshold(every[chosen == label], confidence[chosen == label])
            for label in range(probabilities.shape[1])
        ]
    )


def _threshold(own: NDArray[np.float64], confidence: Probabilities) -> float:
    """As `choose_thresholds`, of one expert: its gains [m] and the router's confidences [m]."""
    if len(own) < FEWEST_ROWS:
        return NEVER
    simplest_first = (NEVER, GRID[0], *reversed(GRID[1:]))
    kept = {least: np.where(confidence >= least, own, 0.0) for least in simplest_first}
    best = min(kept.values(), key=lambda rows: float(rows.sum()))
    return next(least for least, rows in kept.items() if not _surely_below(best - rows))


def decide(losses: Losses, probabilities: Probabilities, folds: NDArray[np.int64]) -> Thresholds:
    """Return the thresholds [K] to serve by; all are `NEVER` unless splitting is shown to help.

    Each of the `folds` [n] is judged by thresholds that the others chose. If the mean over all rows is not below 0 by
    more than a standard error, the fallback answers everything.
    """
    if _surely_below(cross_fitted(losses, probabilities, folds)):
        return choose_thresholds(losses, probabilities)
    return np.full(probabilities.shape[1], NEVER)


def cross_fitted(
    losses: Losses, probabilities: Probabilities, folds: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the loss as served less the fallback's [n], each fold under the thresholds that the others chose."""
    differences = np.zeros(len(losses))
    for fold in np.unique(folds):
        out = folds == fold
        thresholds = choose_thresholds(losses[~out], probabilities[~out])
        differences[out] = served(losses[out], probabilities[out], thresholds)
    return differences


def judged(losses: Losses, probabilities: Probabilities, folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what `decide` is worth [n], as `cross_fitted`: each fold under what it decides on the other folds alone.

    So no row had a part in any decision that it judges, whether to serve experts at all included.
    """
    differences = np.zeros(len(losses))
    for fold in np.unique(folds):
        out = folds == fold
        thresholds = decide(losses[~out], probabilities[~out], folds[~out])
        differences[out] = served(losses[out], probabilities[out], thresholds)
    return differences


def draw_folds(prompts: list[str], seed: int) -> NDArray[np.int64]:
    """Deal rows [n] out into `FOLDS` folds, all rows of one prompt into the same."""
    known = list(dict.fromkeys(prompts))
    order = np.random.default_rng(seed).permutation(len(known))
    fold_of = {known[place]: number % FOLDS for number, place in enumerate(order)}
    return np.array([fold_of[prompt] for prompt in prompts], dtype=np.int64)


def interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean of differences [n] and its 95 % interval, from resampled rows."""
    mean = float(differences.mean())
    if len(differences) < 2 or np.ptp(differences) == 0:
        return mean, mean, mean
    found = bootstrap(
        (differences,), np.mean, n_resamples=_RESAMPLES, batch=100, method="percentile", rng=0
    ).confidence_interval
    return mean, float(found.low), float(found.high)


def _surely_below(differences: NDArray[np.float64]) -> bool:
    """Whether the mean of differences [n] is below 0 by more than one standard error."""
    if len(differences) < 2:
        return False
    return bool(differences.mean() + differences.std(ddof=1) / np.sqrt(len(differences)) < 0)
