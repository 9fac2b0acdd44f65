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

from training.clusters.assignment import compare_rows, place
from training.clusters.results import Assigned, Calibrated, EncodedPrompts
from training.gradients.source import Recomputed
from training.gradients.supply import row_gradients
from training.router.head import drawn_half
from training.router.rows import JudgedRows, RoutedRows
from training.rows.rendering import TokenRow
from training.rows.split import prompt_key, whole_prompts
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageResult, StageStore

TEACH, FIT, JUDGE = "teach", "fit", "judge"
_LABELS = "labels.parquet"


@dataclass(frozen=True)
class LabelledHeldOut:
    """The validation rows, then those of `data.held_out`: n of them.

    labels, cosine and margin [n] as in `Assignment`; encoded [n]: their places in `EncodedPrompts`. use [n], drawn by
    the recipe's seed: `teach` the router's head, as training rows do, is a third of `data.held_out`; the rest is in
    halves, to `fit` temperature and thresholds and to `judge`. Whatever is reported of the router is measured on the
    last.
    """

    rows: Sequence[TokenRow]
    labels: NDArray[np.int64]
    cosine: NDArray[np.float64]
    margin: NDArray[np.float64]
    part: Sequence[str]
    use: NDArray[np.str_]
    encoded: NDArray[np.int64]

    @property
    def teaching(self) -> RoutedRows:
        """The rows that the head learns from, beside the training rows."""
        places = np.flatnonzero(self.use == TEACH)
        return RoutedRows([self.rows[place].routed_text for place in places], self.labels[places])

    @property
    def judged(self) -> JudgedRows:
        """The others."""
        places = np.flatnonzero(self.use != TEACH)
        texts = [self.rows[place].routed_text for place in places]
        return JudgedRows(texts, self.labels[places], self.use[places] == FIT)

    @property
    def digest(self) -> str:
        """Of the labels and of what each row is used for."""
        return hashlib.sha256(self.labels.tobytes() + "".join(self.use).encode()).hexdigest()


def label_held_out(
    inputs: Inputs,
    store: StageStore,
    warmup: TrainedAdapter,
    prompts: EncodedPrompts,
    centroids: Calibrated,
    assigned: Assigned,
) -> LabelledHeldOut:
    """Assign the rows of `data.held_out` as validation rows were, and lay them beside the validation rows."""
    validation, assignment = list(inputs.split.validation), assigned.assignment
    rows = inputs.pick(validation)
    labels, cosine, margin = (
        assignment.labels[validation],
        assignment.cosine[validation],
        assignment.margin[validation],
    )
    if inputs.held_out:
        stage = _labelled(inputs, store, warmup, prompts, centroids, assigned)
        table = pq.read_table(stage.folder / _LABELS)
        rows += list(inputs.held_out)
        labels = np.concatenate([labels, table["label"].to_numpy()])
        cosine = np.concatenate([cosine, table["cosine"].to_numpy()])
        margin = np.concatenate([margin, table["margin"].to_numpy()])
    part = ["validation"] * len(validation) + ["held_out"] * len(inputs.held_out)
    use = drawn_uses([row.routed_text for row in rows], len(validation), inputs.recipe.seed)
    encoded = np.array([*validation, *range(len(inputs.rows), len(inputs.rows) + len(inputs.held_out))])
    return LabelledHeldOut(rows, labels, cosine, margin, part, use, encoded)


def drawn_uses(texts: Sequence[str], validation: int, seed: int) -> NDArray[np.str_]:
    """Return what each row is used for, as `LabelledHeldOut` says: rows of one text, of [n], for one and the same.

    The first `validation` of them are the validation rows.
    """
    use = np.full(len(texts), JUDGE)
    held_out = len(texts) - validation
    further = np.random.default_rng(seed).permutation(held_out).tolist()
    teach = whole_prompts(further, held_out // 3, [prompt_key(text) for text in texts[validation:]])
    use[[validation + place for place in teach]] = TEACH
    others = np.flatnonzero(use != TEACH)
    use[others[drawn_half([texts[place] for place in others], seed)]] = FIT
    return use


def _labelled(
    inputs: Inputs,
    store: StageStore,
    warmup: TrainedAdapter,
    prompts: EncodedPrompts,
    centroids: Calibrated,
    assigned: Assigned,
) -> StageResult:
    depends_on = {
        "centroids": centroids.digest,
        "labels": assigned.labels_sha256,
        "rows": inputs.held_out_digest,
    }
    stage = Stage("held_out", f"Stage II: {len(inputs.held_out):,} held-out rows", depends_on)
    rows = inputs.held_out

    def work(folder: Path) -> dict[str, Any]:
        with (
            row_gradients(inputs, warmup) as gradients,
            store.narrator.bar("rows", len(rows), "rows") as advance,
        ):
            compared = compare_rows(
                Recomputed(gradients, rows, store.world),
                [len(row.input_ids) for row in rows],
                centroids.centroids()[assigned.centroid_of_label].to(gradients.device),  # [K, d], by label
                store.checkpoint(stage, inputs.recipe.clusters.checkpoint_seconds),
                advance,
            )
        drawn = centroids.drawn
        added = None
        if drawn is not None:
            added = drawn.of(prompts.embeddings[len(inputs.rows) :])[:, assigned.centroid_of_label]
        placed = place(compared.cosines, added)
        columns = {"label": placed.labels, "cosine": placed.cosine, "margin": placed.margin}
        pq.write_table(pa.table(columns), folder / _LABELS)
        return {"rows": len(placed.labels)}

    return store.run(stage, work)


def held_out_table(inputs: Inputs, held_out: LabelledHeldOut) -> pa.Table:
    """Return what the bundle keeps of the held-out rows, one line each.

    origin, source, part (`validation` or `held_out`), use (`teach`, `fit` or `judge`), label, cosine, margin; text
    (what the router reads) and response, null where the recipe keeps them out.
    """
    told = inputs.recipe.data.held_out_texts
    rows = held_out.rows
    return pa.table(
        {
            "origin": [row.origin for row in rows],
            "source": pa.array([row.source for row in rows], pa.string()),
            "part": list(held_out.part),
            "use": held_out.use,
            "label": held_out.labels,
            "cosine": held_out.cosine,
            "margin": held_out.margin,
            "text": pa.array([_encodable(row.routed_text) if told else None for row in rows], pa.string()),
            "response": pa.array([inputs.words_of(row)[1] if told else None for row in rows], pa.string()),
        }
    )


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # JSON can carry lone surrogates, Parquet can't
