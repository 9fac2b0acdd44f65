"""Stage II's last question: would another order of the rows have given another partition? (section 5.3.2)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from training.clusters.assignment import compare_rows, place
from training.clusters.centroids import Calibrated as Ended
from training.clusters.centroids import Movement, Readable, calibrate
from training.clusters.results import Calibrated, ClusterStart, EncodedPrompts, OrdersCompared
from training.clusters.row_orders import InCoordinates, shuffle_agreement
from training.gradients.supply import GradientSupply
from training.memory.plan import Plan
from training.stage_two import prompts_of, readable_of
from training.stages.checkpoint import Checkpoint
from training.stages.inputs import Inputs
from training.stages.processes import World
from training.stages.store import Stage, StageStore

_ORDERS = 3  # of the rows, whose partitions are compared


def compare_orders(
    inputs: Inputs,
    store: StageStore,
    encoded: EncodedPrompts,
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

    def calibrated(
        order: int,
        source: Any,
        rows: Sequence[int],
        first: Tensor,
        checkpoint: Checkpoint,
        readable: Readable | None,
    ) -> Ended:
        movement, seed = Movement(plan.cache, plan.look_ahead_batches), inputs.recipe.seed + order
        most = len(rows) * section.max_epochs
        with store.narrator.bar(f"order {order + 1}, calibration", most, "rows at most") as bar:
            return calibrate(source, rows, first, section, movement, seed, checkpoint, bar, readable)

    def of_all(order: int) -> NDArray[np.int64]:
        seconds, train = section.checkpoint_seconds, inputs.split.train
        done = store.checkpoint(stage, seconds, f"partition-{order}")
        saved = done.load()
        if saved is not None:
            return saved.tensors["labels"].numpy()
        first, final = (each.centroids().to(supply.source.device) for each in ends)
        drawn = None if centroids.drawn is None else centroids.drawn.train
        if order > 0:
            at = store.checkpoint(stage, seconds, f"order-{order}")
            readable = readable_of(inputs, encoded, start)
            ended = calibrated(order, supply.source, train, first, at, readable)
            final, drawn = ended.centroids, _drawn(readable, ended)
        at = store.checkpoint(stage, seconds, f"comparison-{order}")
        with store.narrator.bar(f"order {order + 1}, rows", len(inputs.rows), "rows") as advance:
            compared = compare_rows(supply.source, inputs.lengths, final, at, advance)
        labels = place(compared.cosines[list(train)], drawn).labels
        done.save({}, {"labels": torch.from_numpy(labels)})
        return labels

    def of_probe(order: int) -> NDArray[np.int64]:
        source, labels = InCoordinates(start.gram()), start.probe_labels().numpy()
        means = np.stack(
            [source.vectors.numpy()[labels == label].mean(0) for label in range(labels.max() + 1)]
        )
        first = normalize(torch.from_numpy(means), dim=1)
        alone = Checkpoint(store.folder / ".orders.checkpoint", stage.digest, math.inf, World())
        readable = None
        if section.readable:
            prompts = prompts_of(inputs, encoded, inputs.split.probe)
            readable = Readable(section.readable, prompts, labels)
        ended = calibrated(order, source, range(len(labels)), first, alone, readable)
        cosines = (source.vectors @ ended.centroids.T).double().numpy()
        return place(cosines, _drawn(readable, ended)).labels

    def work(folder: Path) -> dict[str, Any]:
        if on_all:
            return shuffle_agreement(of_all, _ORDERS, "all training rows")
        return shuffle_agreement(of_probe, _ORDERS, "the probe")

    return OrdersCompared.read(store.run(stage, work, before=supply.open if on_all else None))


def _drawn(readable: Readable | None, ended: Ended) -> NDArray[np.float32] | None:
    """What is added in the end to the cosines [n, K] of the rows that were calibrated."""
    return None if readable is None else readable.drawn(ended.labels, len(ended.centroids))
