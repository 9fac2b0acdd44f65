"""Every method's own learning rate, chosen on validation rows of the first seed and never on test rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from evaluation.methods.protocol import Method
from evaluation.seed.scoring import Scores, score
from evaluation.seed.seed_run import SeedRun
from evaluation.table_one.recipe import CompareSection


def choose_rate(run: SeedRun, method: Method, section: CompareSection) -> tuple[float, dict[float, float]]:
    """Return the rate of the lowest validation loss, and the loss per token of every rate that was tried.

    The loss is that of the route which a served model could take, averaged over the sources; rows of each source
    count by their tokens. Where nothing is trained the rate is 0.
    """
    if method.tuning == "none":
        return 0.0, {}
    rates = section.learning_rates if method.tuning == "adapters" else section.full_learning_rates
    if len(rates) == 1:
        return rates[0], {}
    losses = {rate: _validation_loss(run, method, rate) for rate in rates}
    best = min(losses, key=lambda rate: losses[rate] if math.isfinite(losses[rate]) else math.inf)
    said = ", ".join(f"{rate:g}: {loss:.4f}" for rate, loss in losses.items())
    run.store.narrator.say(f"    {method.name}: learning rate {best:g} (validation loss by rate: {said})")
    return best, losses


def _validation_loss(run: SeedRun, method: Method, rate: float) -> float:
    fitted = method.fit(run, rate)
    scores = score(run, f"{method.name}-at-{rate:g}-validation", fitted, run.validation)[fitted.judged_by]
    sources = [run.rows[place].source for place in run.validation]
    return mean_over_sources(scores, sources)


def mean_over_sources(scores: Scores, sources: Any) -> float:
    """Return the mean of the sources' losses per response token; `sources` [n] are the rows'."""
    names = np.asarray(sources)
    each = [
        scores.loss[names == name].sum() / scores.tokens[names == name].sum() for name in np.unique(names)
    ]
    return float(np.mean(each))
