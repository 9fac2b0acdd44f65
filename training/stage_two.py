"""Stage II: K and the first centroids, their calibration, the final assignment (section 5.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.clusters.assignment import assign, compare_rows
from training.clusters.centroids import Movement, Readable, calibrate
from training.clusters.count import choose_clusters
from training.clusters.facts import cluster_facts, write_assignments
from training.clusters.gram import FactorShares, ProbeGradients
from training.clusters.readable import UNKNOWN, Prompts, in_folds
from training.clusters.results import (
    ASSIGNMENTS,
    Assigned,
    Calibrated,
    Checked,
    ClusterStart,
    Drawn,
    EncodedPrompts,
    write_centroids,
    write_drawn,
    write_prompts,
    write_start,
)
from training.diagnosis.diagnosis import diagnose, require_healthy
from training.gradients.source import make_unit_
from training.gradients.supply import GradientSupply, row_gradients
from training.memory.plan import Plan
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.store import Stage, StageStore

_CHECKED = 4  # rows whose gradients are checked before all others

# What only calibration depends on, and what can change nothing that is computed.
_OF_CALIBRATION = {"batch_rows", "cache_batches", "beta", "max_epochs", "max_drift", "max_churn"}
_OF_NO_RESULT = {
    *("min_rows", "micro_batch_tokens", "cache", "gradients", "orders", "checkpoint_seconds"),
}


def check_gradients(inputs: Inputs, store: StageStore, warmup: TrainedAdapter) -> Checked:
    """Check on a few rows that this model's per-row gradients are what they should be, before any are used."""
    stage = Stage("diagnosis", "Stage II: are the gradients exact?", {"warmup": warmup.digest})

    def work(folder: Path) -> dict[str, Any]:
        source = row_gradients(inputs, warmup)
        checks = diagnose(
            source.model, inputs.pick(inputs.split.probe[:_CHECKED]), source.pad_id, source.token_budget
        )
        require_healthy(checks)
        passed = sum(check.passed is True for check in checks)
        store.narrator.say(f"    {passed} checks passed (gradientspace diagnose shows them)")
        factors = [[factor.name, factor.start, factor.stop] for factor in source.factors]
        return {
            "dimension": source.dimension,
            "factors": factors,
            "checks": [asdict(check) for check in checks],
        }

    return Checked.read(store.deal_out([(stage, work)])[0])


def encode_prompts(inputs: Inputs, store: StageStore) -> EncodedPrompts:
    """Encode every prompt as the router will; Stage II asks what can be told from it, and the router learns from it."""
    texts = [row.routed_text for row in (*inputs.rows, *inputs.held_out)]
    depends_on = {
        "inputs": inputs.digest,
        "held_out": inputs.held_out_digest,
        "encoder": inputs.encoder.sha256,
        "max_tokens": inputs.recipe.router.max_tokens,
    }
    stage = Stage("prompts", f"Prompts, as {inputs.encoder.name} reads them", depends_on)

    def work(folder: Path) -> dict[str, Any]:
        with store.narrator.bar("encoding prompts", len(texts), "rows") as advance:
            embeddings = inputs.encoder.embed(texts, inputs.recipe.router.max_tokens, advance)  # [N + n, H]
        write_prompts(folder, embeddings)
        return {"rows": len(texts)}

    return EncodedPrompts.read(store.deal_out([(stage, work)])[0])


def prompts_of(inputs: Inputs, encoded: EncodedPrompts, rows: Sequence[int]) -> Prompts:
    """Return the prompts of these rows of the run, in folds by the recipe's seed."""
    texts = [row.routed_text for row in inputs.pick(rows)]
    return in_folds(encoded.embeddings, rows, texts, inputs.recipe.seed)


def start_clusters(
    inputs: Inputs,
    store: StageStore,
    encoded: EncodedPrompts,
    checked: Checked,
    supply: GradientSupply,
    plan: Plan,
) -> ClusterStart:
    """Choose K on the probe and lift its centroids to R^d (section 5.3.1)."""
    section = inputs.recipe.clusters
    choices = section.model_dump(exclude=_OF_CALIBRATION | _OF_NO_RESULT)
    stage = Stage(
        "start",
        "Stage II: the number of clusters and where they start",
        {
            "warmup": supply.warmup.digest,
            "clusters": choices,
            # Not the prompts' digest: those of other held-out rows change nothing here.
            "encoder": inputs.encoder.sha256,
            "router_tokens": inputs.recipe.router.max_tokens,
        },
    )

    def work(folder: Path) -> dict[str, Any]:
        probe = ProbeGradients(supply.source, inputs.split.probe, plan.probe_block_rows, store.world)
        shares = FactorShares([(start, stop) for _, start, stop in checked.factors])
        checkpoint = store.checkpoint(stage, section.checkpoint_seconds)
        with store.narrator.bar("probe gradients", probe.computed_rows, "rows") as advance:
            gram = probe.gram(checkpoint, advance)  # [n, n]
            prompts = prompts_of(inputs, encoded, inputs.split.probe)
            start = choose_clusters(gram, section, inputs.recipe.seed, prompts)
            centroids = probe.weighted_sums(start.weights, shares, advance)  # [K, d]
        make_unit_(centroids)
        write_start(folder, centroids, gram, torch.tensor(start.probe_labels))
        dimension = supply.source.dimension
        store.narrator.say(f"    K = {start.k}, in {start.components} directions; d = {dimension:,}")
        if start.k == 1 and start.warnings:
            store.narrator.warn(start.warnings[0])
        names = [name for name, _, _ in checked.factors]
        by_factor = dict(zip(names, shares.mean(store.world), strict=True))
        return {"spectrum": start.summary() | {"dimension": dimension}, "factor_shares": by_factor}

    return ClusterStart.read(store.run(stage, work, before=supply.open))


def calibrate_centroids(
    inputs: Inputs,
    store: StageStore,
    encoded: EncodedPrompts,
    start: ClusterStart,
    supply: GradientSupply,
    plan: Plan,
) -> Calibrated:
    """Refine the centroids over all training rows (section 5.3.2)."""
    section = inputs.recipe.clusters
    choices = section.model_dump(include=_OF_CALIBRATION) | {"cache": plan.cache}
    stage = Stage("centroids", "Stage II: centroid calibration", {"start": start.digest, "clusters": choices})

    def work(folder: Path) -> dict[str, Any]:
        rows = inputs.split.train
        readable = readable_of(inputs, encoded, start)
        with store.narrator.bar("rows", len(rows) * section.max_epochs, "rows at most") as advance:
            done = calibrate(
                supply.source,
                rows,
                start.centroids().to(supply.source.device),
                section,
                Movement(plan.cache, plan.look_ahead_batches),
                inputs.recipe.seed,
                store.checkpoint(stage, section.checkpoint_seconds),
                advance,
                readable,
            )
        write_centroids(folder, done.centroids)
        if readable is not None and store.world.is_first:
            k = len(done.centroids)
            head = readable.prompts.head(done.labels, k)
            write_drawn(folder, Drawn(readable.drawn(done.labels, k), head, readable.weight))
        if not done.converged:
            store.narrator.warn(
                f"the centroids still move after {section.max_epochs} epochs (clusters.max_epochs)"
            )
        epochs = [asdict(epoch) for epoch in done.epochs]
        limits = {"drift": section.max_drift, "churn": section.max_churn}
        return {"epochs": epochs, "converged": done.converged, "cache": plan.cache, "limits": limits} | {
            "readable": section.readable
        }

    return Calibrated.read(store.run(stage, work, before=supply.open))


def readable_of(inputs: Inputs, encoded: EncodedPrompts, start: ClusterStart) -> Readable | None:
    """What draws the training rows to readable clusters, if the recipe wants any."""
    weight, rows = inputs.recipe.clusters.readable, inputs.split.train
    if not weight:
        return None
    known = np.full(len(inputs.rows), UNKNOWN)
    known[list(inputs.split.probe)] = start.probe_labels().numpy()
    return Readable(weight, prompts_of(inputs, encoded, rows), known[list(rows)])


def assign_rows(
    inputs: Inputs,
    store: StageStore,
    encoded: EncodedPrompts,
    centroids: Calibrated,
    supply: GradientSupply,
) -> Assigned:
    """Assign every row, validation rows too, to its nearest centroid (equation 9), as far as prompts tell it.

    Of a training row that is said by heads that have not seen it, of the others by one on all training rows.
    """
    section = inputs.recipe.clusters
    counted = np.zeros(len(inputs.rows), dtype=bool)
    counted[list(inputs.split.train)] = True
    depends_on = {
        "centroids": centroids.digest,
        "min_rows": section.min_rows,
        "origins": inputs.origins_digest,
    }
    stage = Stage("assignment", "Stage II: final assignment", depends_on)

    def work(folder: Path) -> dict[str, Any]:
        with store.narrator.bar("rows", len(inputs.rows), "rows") as advance:
            compared = compare_rows(
                supply.source,
                inputs.lengths,
                centroids.centroids().to(supply.source.device),
                store.checkpoint(stage, section.checkpoint_seconds),
                advance,
            )
        done = assign(compared, counted, section.min_rows, _drawn(inputs, encoded, centroids))
        write_assignments(folder / ASSIGNMENTS, inputs.rows, inputs.split, done)
        facts = cluster_facts(inputs.rows, inputs.split, done)
        for warning in done.warnings:
            store.narrator.warn(warning)
        store.narrator.say(f"    rows per cluster: {', '.join(f'{size:,}' for size in facts['rows'])}")
        return {
            "clusters": facts,
            "centroid_of_label": list(done.centroid_of_label),
            "labels_sha256": hashlib.sha256(done.labels.tobytes()).hexdigest(),
        }

    return Assigned.read(store.run(stage, work, before=supply.open))


def _drawn(inputs: Inputs, encoded: EncodedPrompts, centroids: Calibrated) -> NDArray[np.float32] | None:
    """What is added to the cosines of all rows [N, K] with the final centroids."""
    if centroids.drawn is None:
        return None
    others = np.setdiff1d(np.arange(len(inputs.rows)), inputs.split.train)
    drawn = np.empty((len(inputs.rows), centroids.drawn.train.shape[1]), dtype=np.float32)
    drawn[list(inputs.split.train)] = centroids.drawn.train
    drawn[others] = centroids.drawn.of(encoded.embeddings[others])
    return drawn
