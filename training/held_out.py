"""Held-out rows: outside all training, labelled as Stage II labels, for the router to be fitted to and judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from training.assignment import Assignment, compare_rows
from training.errors import TrainingError
from training.gradient_source import Recomputed
from training.gradient_supply import row_gradients
from training.inputs import Inputs
from training.rendering import TokenRow
from training.router_head import drawn_half
from training.stage_store import Stage, StageResult, StageStore
from training.stage_two import read_centroids

_LABELS = "labels.parquet"
_SAME_COSINE = (
    1e-3  # float32 sums in another order differ by far less, two centroids of one cluster by far more
)


@dataclass(frozen=True)
class HeldOut:
    """The validation rows, then those of `data.held_out`: n of them.

    labels, cosine and margin [n] as in `Assignment`; fitted [n]: the half, drawn by the recipe's seed, that
    temperature and thresholds are fitted on. Whatever is reported of the router is measured on the others.
    """

    rows: Sequence[TokenRow]
    labels: NDArray[np.int64]
    cosine: NDArray[np.float64]
    margin: NDArray[np.float64]
    part: Sequence[str]
    fitted: NDArray[np.bool_]

    @property
    def texts(self) -> list[str]:
        """What the router reads of each row."""
        return [row.routed_text for row in self.rows]

    @property
    def digest(self) -> str:
        """Of the labels and of which rows are fitted to."""
        return hashlib.sha256(self.labels.tobytes() + self.fitted.tobytes()).hexdigest()


def label_held_out(
    inputs: Inputs,
    store: StageStore,
    warmup: StageResult,
    centroids: StageResult,
    assigned: StageResult,
    assignment: Assignment,
) -> HeldOut:
    """Assign the rows of `data.held_out` as equation 9 did all others, and lay them beside the validation rows."""
    validation = list(inputs.split.validation)
    rows = inputs.pick(validation)
    labels, cosine, margin = (
        assignment.labels[validation],
        assignment.cosine[validation],
        assignment.margin[validation],
    )
    if inputs.held_out:
        stage = _labelled(inputs, store, warmup, centroids, assigned, assignment)
        table = pq.read_table(stage.folder / _LABELS)
        rows += list(inputs.held_out)
        labels = np.concatenate([labels, table["label"].to_numpy()])
        cosine = np.concatenate([cosine, table["cosine"].to_numpy()])
        margin = np.concatenate([margin, table["margin"].to_numpy()])
    fitted = drawn_half(len(rows), inputs.recipe.seed)
    part = ["validation"] * len(validation) + ["held_out"] * len(inputs.held_out)
    return HeldOut(rows, labels, cosine, margin, part, fitted)


def _labelled(
    inputs: Inputs,
    store: StageStore,
    warmup: StageResult,
    centroids: StageResult,
    assigned: StageResult,
    assignment: Assignment,
) -> StageResult:
    depends_on = {
        "centroids": centroids.digest,
        "labels": assigned.facts["labels_sha256"],
        "rows": inputs.held_out_digest,
    }
    stage = Stage("held_out", f"Stage II: {len(inputs.held_out):,} held-out rows", depends_on)
    nearest = _nearest_rows(assignment)
    # Clusters were ordered and merged after their centroids were made: one known row of each says which is whose.
    rows = [*inputs.pick(nearest), *inputs.held_out]

    def work(folder: Path) -> dict[str, Any]:
        with (
            row_gradients(inputs, warmup) as gradients,
            store.narrator.bar("rows", len(rows), "rows") as advance,
        ):
            compared = compare_rows(
                Recomputed(gradients, rows, store.world),
                [len(row.input_ids) for row in rows],
                read_centroids(centroids).to(gradients.device),
                store.checkpoint(stage, inputs.recipe.clusters.checkpoint_seconds),
                advance,
            )
        of_label = _centroid_of_label(compared.cosines[: len(nearest)], assignment.cosine[nearest])
        cosines = compared.cosines[len(nearest) :, of_label]  # [n, K]
        ranked = np.sort(cosines, axis=1)
        runner_up = ranked[:, -2] if len(of_label) > 1 else np.full(len(cosines), -1.0)
        columns = {"label": cosines.argmax(1), "cosine": ranked[:, -1], "margin": ranked[:, -1] - runner_up}
        pq.write_table(pa.table(columns), folder / _LABELS)
        return {"rows": len(cosines)}

    return store.run(stage, work)


def _nearest_rows(assignment: Assignment) -> list[int]:
    """The row of each label that is nearest to its centroid [K]."""
    return [
        int(np.where(assignment.labels == label, assignment.cosine, -np.inf).argmax())
        for label in range(assignment.k)
    ]


def _centroid_of_label(cosines: NDArray[np.float64], known: NDArray[np.float64]) -> list[int]:
    """Which centroid is each label's, by one row of each: cosines [K, centroids], its known cosine [K]."""
    difference = np.abs(cosines - known[:, None])
    columns = difference.argmin(1)
    if difference.min(1).max() > _SAME_COSINE or len(set(columns)) < len(columns):
        raise TrainingError(
            "Held-out rows can't be labelled: the gradients of rows that were assigned before come out differently "
            "now. Start with a new run folder."
        )
    return [int(column) for column in columns]


def held_out_table(inputs: Inputs, held_out: HeldOut) -> pa.Table:
    """Return what the bundle keeps of the held-out rows, one line each.

    origin, source, part (`validation` or `held_out`), fitted (whether temperature and thresholds were fitted on it),
    label, cosine, margin; text (what the router reads) and response, null where the recipe keeps them out.
    """
    told = inputs.recipe.data.held_out_texts
    rows = held_out.rows
    return pa.table(
        {
            "origin": [row.origin for row in rows],
            "source": pa.array([row.source for row in rows], pa.string()),
            "part": list(held_out.part),
            "fitted": held_out.fitted,
            "label": held_out.labels,
            "cosine": held_out.cosine,
            "margin": held_out.margin,
            "text": pa.array([_encodable(row.routed_text) if told else None for row in rows], pa.string()),
            "response": pa.array([inputs.words_of(row)[1] if told else None for row in rows], pa.string()),
        }
    )


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can carry lone surrogates, Parquet can't
