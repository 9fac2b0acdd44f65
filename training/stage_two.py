"""Stage II: K and the first centroids, their calibration, the final assignment (section 5.3)."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from training.clusters.assignment import assign, compare_rows
from training.clusters.centroids import Movement, calibrate
from training.clusters.count import choose_clusters
from training.clusters.facts import cluster_facts, write_assignments
from training.clusters.gram import FactorShares, ProbeGradients
from training.clusters.results import (
    ASSIGNMENTS,
    Assigned,
    Calibrated,
    Checked,
    ClusterStart,
    OrdersCompared,
    write_centroids,
    write_start,
)
from training.clusters.row_orders import InCoordinates, shuffle_agreement
from training.diagnosis.diagnosis import diagnose, require_healthy
from training.gradients.source import make_unit_
from training.gradients.supply import GradientSupply, row_gradients
from training.memory.plan import Plan
from training.stages.checkpoint import Checkpoint
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.processes import World
from training.stages.store import Stage, StageStore

_CHECKED = 4  # rows whose gradients are checked before all others
_ORDERS = 3  # of the rows, whose partitions are compared

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


def start_clusters(
    inputs: Inputs, store: StageStore, checked: Checked, supply: GradientSupply, plan: Plan
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
            start = choose_clusters(gram, section, inputs.recipe.seed, _probe_embeddings(inputs))
            centroids = probe.weighted_sums(start.weights, shares, advance)  # [K, d]
        make_unit_(centroids)
        write_start(folder, centroids, gram, torch.tensor(start.probe_labels))
        dimension = supply.source.dimension
        store.narrator.say(f"    K = {start.k}, in {start.components} directions; d = {dimension:,}")
        names = [name for name, _, _ in checked.factors]
        by_factor = dict(zip(names, shares.mean(store.world), strict=True))
        return {"spectrum": start.summary() | {"dimension": dimension}, "factor_shares": by_factor}

    return ClusterStart.read(store.run(stage, work, before=supply.open))


def _probe_embeddings(inputs: Inputs) -> NDArray[np.float32] | None:
    # What the number of clusters is judged by; a number that is given needs no judging.
    if inputs.recipe.clusters.k is not None:
        return None
    texts = [row.routed_text for row in inputs.pick(inputs.split.probe)]
    return inputs.encoder.embed(texts, inputs.recipe.router.max_tokens)


def calibrate_centroids(
    inputs: Inputs, store: StageStore, start: ClusterStart, supply: GradientSupply, plan: Plan
) -> Calibrated:
    """Refine the centroids over all training rows (section 5.3.2)."""
    section = inputs.recipe.clusters
    choices = section.model_dump(include=_OF_CALIBRATION) | {"cache": plan.cache}
    stage = Stage("centroids", "Stage II: centroid calibration", {"start": start.digest, "clusters": choices})

    def work(folder: Path) -> dict[str, Any]:
        rows = inputs.split.train
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
            )
        write_centroids(folder, done.centroids)
        if not done.converged:
            store.narrator.warn(
                f"the centroids still move after {section.max_epochs} epochs (clusters.max_epochs)"
            )
        epochs = [asdict(epoch) for epoch in done.epochs]
        limits = {"drift": section.max_drift, "churn": section.max_churn}
        return {"epochs": epochs, "converged": done.converged, "cache": plan.cache, "limits": limits}

    return Calibrated.read(store.run(stage, work, before=supply.open))


def assign_rows(inputs: Inputs, store: StageStore, centroids: Calibrated, supply: GradientSupply) -> Assigned:
    """Assign every row, validation rows too, to its nearest centroid (equation 9)."""
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
        done = assign(compared, counted, section.min_rows)
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


def compare_orders(
    inputs: Inputs,
    store: StageStore,
    ends: tuple[ClusterStart, Calibrated],
    supply: GradientSupply,
    plan: Plan,
) -> OrdersCompared:
    """Calibrate in two other orders of the rows and say how far the partitions agree.

    On the probe, whose Gram matrix is known, so that it costs next to nothing; on all training rows if the recipe asks
    for it, which is two calibrations more. `ends`: where the run's own centroids started and where they came to rest.
    """
    start, centroids = ends
    section = inputs.recipe.clusters
    on_all = section.orders == "all"
    depends_on = {
        "start": start.digest,
        "centroids": centroids.digest,
        "orders": _ORDERS,
        "on_all": on_all,
    }
    stage = Stage("orders", "Stage II: does the order of the rows matter?", depends_on)

    def calibrated(order: int, source: Any, rows: Any, first: Tensor, checkpoint: Checkpoint) -> Tensor:
        movement, seed = Movement(plan.cache, plan.look_ahead_batches), inputs.recipe.seed + order
        most = len(rows) * section.max_epochs
        with store.narrator.bar(f"order {order + 1}, calibration", most, "rows at most") as bar:
            return calibrate(source, rows, first, section, movement, seed, checkpoint, bar).centroids

    def of_all(order: int) -> NDArray[np.int64]:
        seconds = section.checkpoint_seconds
        done = store.checkpoint(stage, seconds, f"partition-{order}")
        saved = done.load()
        if saved is None:
            first, final = (each.centroids().to(supply.source.device) for each in ends)
            if order > 0:
                place = store.checkpoint(stage, seconds, f"order-{order}")
                final = calibrated(order, supply.source, inputs.split.train, first, place)
            place = store.checkpoint(stage, seconds, f"comparison-{order}")
            with store.narrator.bar(f"order {order + 1}, rows", len(inputs.rows), "rows") as advance:
                compared = compare_rows(supply.source, inputs.lengths, final, place, advance)
            labels = compared.cosines[list(inputs.split.train)].argmax(1)
            done.save({}, {"labels": torch.from_numpy(labels)})
            return labels
        return saved.tensors["labels"].numpy()

    def of_probe(order: int) -> NDArray[np.int64]:
        source, labels = InCoordinates(start.gram()), start.probe_labels().numpy()
        means = np.stack(
            [source.vectors.numpy()[labels == label].mean(0) for label in range(labels.max() + 1)]
        )
        first = normalize(torch.from_numpy(means), dim=1)
        alone = Checkpoint(store.folder / ".orders.checkpoint", stage.digest, math.inf, World())
        final = calibrated(order, source, range(len(labels)), first, alone)
        return (source.vectors @ final.T).argmax(1).numpy()

    def work(folder: Path) -> dict[str, Any]:
        if on_all:
            return shuffle_agreement(of_all, _ORDERS, "all training rows")
        return shuffle_agreement(of_probe, _ORDERS, "the probe")

    return OrdersCompared.read(store.run(stage, work, before=supply.open if on_all else None))
