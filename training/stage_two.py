"""Stage II: K and the first centroids, their calibration, the final assignment (section 5.3)."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from training.assignment import Assignment, assign
from training.calibration import calibrate
from training.cluster_count import choose_clusters
from training.finetune import load_adapter
from training.gram import ProbeGradients
from training.inputs import Inputs
from training.report import cluster_facts, write_assignments
from training.row_gradients import RowGradients
from training.stage_store import StageResult, StageStore

ASSIGNMENTS = "assignments.parquet"
_MEGABYTE = 1 << 20
_CENTROIDS = "centroids.safetensors"


def start_clusters(inputs: Inputs, store: StageStore, warmup: StageResult) -> StageResult:
    """Choose K on the probe and lift its centroids to R^d (section 5.3.1)."""
    section = inputs.recipe.clusters
    rows = inputs.pick(inputs.split.probe)

    def work(folder: Path) -> dict[str, Any]:
        with _row_gradients(inputs, warmup) as source:
            source.check_head(rows[:4])
            probe = ProbeGradients(source, rows, section.probe_memory_mb * _MEGABYTE)
            with store.narrator.bar("probe gradients", probe.computed_rows, "rows") as advance:
                gram = probe.gram(advance)  # [n, n]
                start = choose_clusters(gram, section, inputs.recipe.seed)
                centroids = normalize(probe.weighted_sums(start.weights, advance), dim=1)  # [K, d]
        save_file({"centroids": centroids.cpu()}, folder / _CENTROIDS)
        store.narrator.say(f"    K = {start.k}, in {start.components} directions; d = {source.dimension:,}")
        return start.summary() | {"dimension": source.dimension}

    # Neither of the two left out can change what is computed here.
    choices = section.model_dump(exclude={"min_rows", "micro_batch_tokens"})
    depends_on = {"warmup": warmup.digest, "clusters": choices}
    return store.run("start", "Stage II: the number of clusters and where they start", depends_on, work)


def calibrate_centroids(
    inputs: Inputs, store: StageStore, warmup: StageResult, start: StageResult
) -> StageResult:
    """Refine the centroids over all training rows (section 5.3.2)."""
    section = inputs.recipe.clusters
    rows = inputs.pick(inputs.split.train)

    def work(folder: Path) -> dict[str, Any]:
        with (
            _row_gradients(inputs, warmup) as source,
            store.narrator.bar("row gradients", len(rows) * section.max_epochs, "rows at most") as advance,
        ):
            first = load_file(start.folder / _CENTROIDS)["centroids"].to(source.device)
            done = calibrate(source, rows, first, section, inputs.recipe.seed, advance)
        save_file({"centroids": done.centroids.cpu()}, folder / _CENTROIDS)
        if not done.converged:
            store.narrator.warn(
                f"the centroids still move after {section.max_epochs} epochs (clusters.max_epochs)"
            )
        return {"epochs": [asdict(epoch) for epoch in done.epochs], "converged": done.converged}

    return store.run("centroids", "Stage II: centroid calibration", {"start": start.digest}, work)


def assign_rows(
    inputs: Inputs, store: StageStore, warmup: StageResult, centroids: StageResult
) -> StageResult:
    """Assign every row, validation rows too, to its nearest centroid (equation 9)."""
    counted = np.zeros(len(inputs.rows), dtype=bool)
    counted[list(inputs.split.train)] = True

    def work(folder: Path) -> dict[str, Any]:
        with (
            _row_gradients(inputs, warmup) as source,
            store.narrator.bar("row gradients", len(inputs.rows), "rows") as advance,
        ):
            final = load_file(centroids.folder / _CENTROIDS)["centroids"].to(source.device)
            done = assign(source, inputs.rows, counted, final, inputs.recipe.clusters.min_rows, advance)
        write_assignments(folder / ASSIGNMENTS, inputs.rows, inputs.split, done)
        facts = cluster_facts(inputs.rows, inputs.split, done)
        for warning in done.warnings:
            store.narrator.warn(warning)
        store.narrator.say(f"    rows per cluster: {', '.join(f'{size:,}' for size in facts['rows'])}")
        return facts | {"labels_sha256": hashlib.sha256(done.labels.tobytes()).hexdigest()}

    depends_on = {
        "centroids": centroids.digest,
        "min_rows": inputs.recipe.clusters.min_rows,
        "origins": inputs.origins_digest,
    }
    return store.run("assignment", "Stage II: final assignment", depends_on, work)


def read_assignment(assigned: StageResult) -> Assignment:
    """Read back what `assign_rows` wrote."""
    table = pq.read_table(assigned.folder / ASSIGNMENTS)
    columns = {name: table[name].to_numpy() for name in ("cosine", "margin", "norm", "norm_share_b")}
    return Assignment(
        labels=table["label"].to_numpy(),
        k=assigned.facts["k"],
        warnings=tuple(assigned.facts["warnings"]),
        **columns,
    )


def _row_gradients(inputs: Inputs, warmup: StageResult) -> RowGradients:
    model = load_adapter(inputs.base, warmup.folder, trainable=False, dtype=torch.float32)
    return RowGradients(
        model,
        pad_id=int(inputs.tokenizer.pad_token_id),
        token_budget=inputs.recipe.clusters.micro_batch_tokens,
    )
