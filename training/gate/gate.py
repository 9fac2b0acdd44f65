"""The gate as a stage: which rows it is measured on, what they decide, and what that is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bundle.gate import GatedLabel, GateRecord, LossDifference
from training.clusters.results import Assigned
from training.gate.losses import measure_losses
from training.gate.policy import (
    FEWEST_ROWS,
    NEVER,
    Losses,
    Probabilities,
    Thresholds,
    decide,
    draw_folds,
    gains,
    interval,
    judged,
)
from training.router.held_out import TEACH, LabelledHeldOut
from training.router.making import RouterStage
from training.rows.split import prompt_key
from training.stages.inputs import Inputs
from training.stages.outcome import Outcome, TrainedAdapter
from training.stages.store import Stage, StageResult, StageStore

FORWARD = 3
"""A row's training takes about as long as this many forward passes."""
_TABLE = "gate.parquet"
_FALLBACK = "fallback"


@dataclass(frozen=True)
class Gate(Outcome):
    """What was decided (`record`), and what it was decided on (`table`)."""

    record: GateRecord

    @classmethod
    def _of(cls, stage: StageResult) -> Self:
        return cls(stage, GateRecord.model_validate(stage.facts["record"]))

    @property
    def table(self) -> Path:
        """A line for each row measured: tokens, fold, every adapter's summed loss, the router's probabilities."""
        return self.folder / _TABLE


def measure_gate(
    inputs: Inputs,
    store: StageStore,
    adapters: tuple[TrainedAdapter, Sequence[TrainedAdapter]],
    assigned: Assigned,
    held_out: LabelledHeldOut,
    router: RouterStage,
) -> Gate:
    """Measure the fallback and the experts, `adapters`, on held-out rows, and decide who answers what.

    The rows are those of validation that stopped no training, and those of `data.held_out` that taught the router
    nothing; as many of them, drawn by the seed, as cost one epoch of training.
    """
    fallback, experts = adapters
    names = [f"expert-{label}" for label in range(assigned.k)]
    places = gate_places(inputs, held_out, len(experts))
    rows = [held_out.rows[place] for place in places]
    digest = hashlib.sha256(places.tobytes() + (inputs.digest + inputs.held_out_digest).encode()).hexdigest()
    by_name = {_FALLBACK: fallback} | dict(zip(names, experts, strict=True))
    sums, measured = measure_losses(inputs, store, by_name, rows, digest)  # [n, 1 + K]
    tokens = np.array([row.trained_tokens for row in rows])
    judged_places = np.flatnonzero(held_out.use != TEACH)
    probabilities = router.probabilities()[np.searchsorted(judged_places, places)]  # [n, K]
    folds = draw_folds([prompt_key(row.routed_text) for row in rows], inputs.recipe.seed)
    sources = [row.source for row in rows]

    def work(folder: Path) -> dict[str, Any]:
        losses = per_token(sums, tokens)
        unsure = probabilities.max(1) < (router.made.calibration.threshold or 0.0)
        losses[unsure, 1:] = losses[unsure, :1]  # there the fallback answers whatever is decided here
        thresholds = decide(losses, probabilities, folds)
        found = _found(losses, probabilities, folds, thresholds)
        record = gate_record(
            losses, probabilities, thresholds, found["served"], (assigned.rows, assigned.shares)
        )
        columns = {
            "origin": [row.origin for row in rows],
            "source": pa.array(sources, pa.string()),
            "tokens": tokens,
            "fold": folds,
        }
        columns |= {f"loss_{name}": sums[:, place] for place, name in enumerate(by_name)}
        columns |= {f"probability_{name}": probabilities[:, place] for place, name in enumerate(names)}
        pq.write_table(pa.table(columns), folder / _TABLE)
        kept = int(np.isfinite(thresholds).sum())
        store.narrator.say(f"    {kept} of {len(names)} experts answer, where they were shown to help")
        return {
            "record": record.model_dump(),
            "ungated": _difference(found["ungated"]).model_dump(),
            "sources": {
                source: {
                    "rows": int(own.sum()),
                    **{name: _difference(each[own]).model_dump() for name, each in found.items()},
                }
                for source in dict.fromkeys(filter(None, sources))
                for own in [np.array([one == source for one in sources])]
            },
        }

    depends_on = {
        "losses": measured,
        "router": router.digest,
        "labels": assigned.labels_sha256,
        "seed": inputs.recipe.seed,
    }
    title = f"Stage III: who answers, by the loss of {len(rows):,} held-out rows"
    return Gate.read(store.deal_out([(Stage("gate", title, depends_on), work)])[0])


def gate_places(inputs: Inputs, held_out: LabelledHeldOut, experts: int) -> NDArray[np.int64]:
    """Return the places [n] among the held-out rows that the gate is measured on, in their order."""
    stopping, use = set(inputs.split.stopping), held_out.use
    stopped = [row in stopping for row in inputs.split.validation]
    stopped += [False] * (len(use) - len(stopped))
    free = np.flatnonzero((use != TEACH) & ~np.array(stopped))
    most = FORWARD * len(inputs.split.train) // (1 + experts)
    return np.sort(np.random.default_rng(inputs.recipe.seed).permutation(free)[:most])


def per_token(sums: NDArray[np.float64], tokens: NDArray[np.int64]) -> Losses:
    """Return losses [n, 1 + K] whose mean over the rows is the loss per completion token, of summed ones."""
    return sums / tokens.mean()


def gate_record(
    losses: Losses,
    probabilities: Probabilities,
    thresholds: Thresholds,
    served: NDArray[np.float64],
    counted: tuple[Sequence[int], Sequence[float]],
) -> GateRecord:
    """Return what the manifest says.

    `served` is the loss as served less the fallback's [n], `counted` the clusters' training rows and shares, both [K].
    """
    chosen, every = probabilities.argmax(1), gains(losses, probabilities)
    labels = []
    for label, (rows, share, least) in enumerate(zip(*counted, thresholds.tolist(), strict=True)):
        own = every[chosen == label]
        labels.append(
            GatedLabel(
                rows=rows,
                share=share,
                threshold=None if least == NEVER else least,
                measured_rows=len(own),
                gain=_difference(own) if len(own) >= FEWEST_ROWS else None,
            )
        )
    return GateRecord(labels=tuple(labels), measured_rows=len(losses), served=_difference(served))


def _found(
    losses: Losses, probabilities: Probabilities, folds: NDArray[np.int64], thresholds: Thresholds
) -> dict[str, NDArray[np.float64]]:
    """The loss less the fallback's of each row [n]: as served, and as it were if every expert always answered."""
    none = not np.isfinite(thresholds).any()
    return {
        "served": np.zeros(len(losses)) if none else judged(losses, probabilities, folds),
        "ungated": gains(losses, probabilities),
    }


def _difference(differences: NDArray[np.float64]) -> LossDifference:
    mean, low, high = interval(differences)
    return LossDifference(mean=mean, low=low, high=high)
