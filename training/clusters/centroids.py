"""Online centroid calibration: assign, remember, move (section 5.3.2), drawn to what prompts tell apart (ours)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.clusters.cache import ClusterCache, ExactCache, NoCache, RingCache
from training.clusters.readable import UNKNOWN, Prompts
from training.gradients.source import UnitGradients, make_unit_
from training.progress import Advance
from training.recipe import ClustersSection
from training.stages.checkpoint import Checkpoint, SavedState
from training.stages.processes import World


@dataclass(frozen=True)
class Epoch:
    """What one pass over the rows changed."""

    drift: float  # the largest 1 - cosine between a centroid and itself an epoch before
    churn: float  # share of rows whose cluster changed against the epoch before
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Calibrated:
    """The final centroids [K, d], unit float32, the labels [N] of the last epoch, and how they got there."""

    centroids: Tensor
    labels: NDArray[np.int64]
    epochs: tuple[Epoch, ...]
    converged: bool


@dataclass(frozen=True)
class Movement:
    """How centroids are moved: with which cache, how far ahead gradients are computed."""

    cache: str  # exact or ring; none, of which no recipe knows, for the ablation
    look_ahead_batches: int


@dataclass(frozen=True)
class Readable:
    """What draws rows to clusters that their prompts tell: `weight` of log p(k | x_i), beside the cosine.

    `start` [N]: clusters of the rows that the first centroids were made of, `UNKNOWN` for all others. They are the
    only labels that there are before the first epoch, so its heads learn from them.
    """

    weight: float
    prompts: Prompts
    start: NDArray[np.int64]

    def drawn(self, labels: NDArray[np.int64], k: int) -> NDArray[np.float32]:
        """Return what is added to the cosines [N, K], as heads see it that were taught these labels [N]."""
        return self.weight * self.prompts.log_chances(labels, k)


class Centroids:
    """Unit centroids [K, d] that each logical batch moves a little; the same in every process."""

    def __init__(self, start: Tensor, cache: ClusterCache, beta: float, world: World) -> None:
        """Begin at `start` [K, d]."""
        self.now = start.clone()
        self.cache = cache
        self.beta = beta
        self.world = world

    def step(
        self, unit: Tensor, places: Sequence[int], batch_rows: int, drawn: Tensor | None = None
    ) -> NDArray[np.int64]:
        """Take one logical batch: label its rows, cache their gradients, move the clusters that got one.

        `unit` [m, d] are this process's rows, at `places` [m] of the batch; `drawn` [batch_rows, K] is added to the
        cosines of the batch's rows; returns all labels [batch_rows].
        """
        labels = torch.zeros(batch_rows, dtype=torch.long)  # [B]
        if len(places):
            scores = (self.now @ unit.T).T  # [m, K]
            if drawn is not None:
                scores = scores + drawn[list(places)].to(scores)
            labels[list(places)] = scores.argmax(1).cpu()
        found = self.world.all_reduce(labels).numpy()  # each row is one process's: the others add zero
        self.cache.insert(found, places, unit)
        for label in np.unique(found).tolist():
            centroid = self.now[label]  # [d], a view
            centroid.mul_(self.beta).add_(self.cache.mean(label), alpha=1 - self.beta)
            make_unit_(centroid[None])
        return found


def calibrate(
    source: UnitGradients,
    rows: Sequence[int],
    start: Tensor,
    section: ClustersSection,
    movement: Movement,
    seed: int,
    checkpoint: Checkpoint,
    advance: Advance,
    readable: Readable | None = None,
) -> Calibrated:
    """Refine unit centroids [K, d] over seeded shuffles of the rows (their numbers) until they hold still.

    For each logical batch of |B| rows: every row goes to the centroid of the largest cosine; its unit gradient
    enters that cluster's cache; each cluster that got a row moves, c <- beta c + (1 - beta) mean(cache), and is
    made a unit vector again. The batch, not the micro-batches or processes inside it, is what labels depend on:
    gradients are constants here, so those of several batches can be computed ahead.

    With `readable` the largest of cosine + weight * log p(k | x_i) decides. The heads behind p are fitted anew between
    epochs, to the labels of the epoch before, and asked about rows of another fold. A row's own part in its cluster's
    centroid is not taken out, as it can be where all rows are at hand: here it is scored before it moves anything, and
    what it moved an epoch before has faded with beta.
    """
    run = _Run(source, rows, start, section, movement, checkpoint.world, readable)
    run.resume(checkpoint.load(), advance)
    orders = np.random.default_rng(seed)
    for epoch in range(section.max_epochs):
        order = orders.permutation(len(rows))
        if epoch >= len(run.epochs):  # the others were done before a kill
            run.epoch(order, lambda: _save_if_due(checkpoint, run), advance)
        done = run.epochs[epoch]
        if done.drift < section.max_drift and done.churn < section.max_churn:
            return Calibrated(run.centroids.now, run.labels, tuple(run.epochs), converged=True)
    return Calibrated(run.centroids.now, run.labels, tuple(run.epochs), converged=False)


def _save_if_due(checkpoint: Checkpoint, run: _Run) -> None:
    if checkpoint.due():
        checkpoint.save(*run.saved_state())


class _Run:
    """The state of a calibration between two logical batches."""

    def __init__(
        self,
        source: UnitGradients,
        rows: Sequence[int],
        start: Tensor,
        section: ClustersSection,
        movement: Movement,
        world: World,
        readable: Readable | None,
    ) -> None:
        self.readable = readable
        self.source, self.rows, self.section, self.world = source, np.asarray(rows), section, world
        self.ahead = movement.look_ahead_batches * section.batch_rows
        self.centroids = Centroids(start, _cache(movement.cache, start, section, world), section.beta, world)
        self.before = start.clone()  # [K, d] at the epoch's beginning
        self.labels = np.full(len(rows), UNKNOWN)  # [N]
        self.labels_before = self.labels.copy()
        self.epochs: list[Epoch] = []
        self.done = 0  # rows of the epoch under way

    def epoch(self, order: NDArray[np.int64], between: Callable[[], None], advance: Advance) -> None:
        """Go on with an epoch, which may have been begun by a killed process."""
        drawn = self._drawn()
        for first in range(self.done, len(order), self.ahead):
            window = order[first : first + self.ahead]
            self._window(window, drawn, advance)
            self.done = first + len(window)
            if self.done < len(order):
                between()
        self._close_epoch()
        between()

    def _drawn(self) -> Tensor | None:
        """weight * log p(k | x_i) [N, K] of the epoch under way.

        Of nothing but the labels before it, so that a killed process's successor finds the same.
        """
        if self.readable is None:
            return None
        drawn = torch.zeros(len(self.rows), len(self.before))  # [N, K]
        if self.world.is_first:
            labels = self.labels_before if self.epochs else self.readable.start
            drawn = torch.from_numpy(self.readable.drawn(labels, len(self.before)))
        return self.world.broadcast(drawn, 0)

    def _window(self, window: NDArray[np.int64], drawn: Tensor | None, advance: Advance) -> None:
        """Compute the gradients of several batches at once, and take the batches one by one."""
        owners = np.asarray(self.source.owners(self.rows[window].tolist()))
        mine = np.flatnonzero(owners == self.world.rank)  # places in the window
        unit = self.source.unit(self.rows[window[mine]].tolist(), advance)  # [m, d]
        for begin in range(0, len(window), self.section.batch_rows):
            batch = window[begin : begin + self.section.batch_rows]
            inside = np.flatnonzero((mine >= begin) & (mine < begin + len(batch)))
            places = (mine[inside] - begin).tolist()
            of_batch = None if drawn is None else drawn[torch.from_numpy(batch)]
            self.labels[batch] = self.centroids.step(_rows_of(unit, inside), places, len(batch), of_batch)

    def saved_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint keeps."""
        facts, tensors = self.centroids.cache.saved_state()
        cache = {f"cache.{name}": tensor for name, tensor in tensors.items()}
        state = {
            "centroids": self.centroids.now,
            "before": self.before,
            "labels": torch.from_numpy(self.labels),
            "labels_before": torch.from_numpy(self.labels_before),
        }
        epochs = [asdict(epoch) for epoch in self.epochs]
        return {"done": self.done, "epochs": epochs, "cache": facts}, state | cache

    def resume(self, saved: SavedState | None, advance: Advance) -> None:
        """Go on from what a checkpoint kept."""
        if saved is None:
            return
        facts, tensors = saved.facts, saved.tensors
        self.done = facts["done"]
        self.epochs = [Epoch(e["drift"], e["churn"], tuple(e["sizes"])) for e in facts["epochs"]]
        self.centroids.now = tensors["centroids"].to(self.before)
        self.before = tensors["before"].to(self.before)
        self.labels, self.labels_before = (tensors[name].numpy() for name in ("labels", "labels_before"))
        cache = {name[6:]: tensor for name, tensor in tensors.items() if name.startswith("cache.")}
        self.centroids.cache.restore(facts["cache"], cache)
        advance(len(self.epochs) * len(self.rows) + self.done)

    def _close_epoch(self) -> None:
        drift = float((1 - (self.centroids.now * self.before).sum(1)).max())
        churn = float((self.labels != self.labels_before).mean())
        sizes = np.bincount(self.labels, minlength=len(self.before)).tolist()
        self.epochs.append(Epoch(drift, churn, tuple(sizes)))
        self.before, self.labels_before = self.centroids.now.clone(), self.labels.copy()
        self.done = 0


def _rows_of(unit: Tensor, inside: NDArray[np.int64]) -> Tensor:
    # One process has all of a batch, and in one piece: no copy of it is made.
    if len(inside) and len(inside) == inside[-1] - inside[0] + 1:
        return unit[int(inside[0]) : int(inside[-1]) + 1]
    return unit[torch.from_numpy(inside).to(unit.device)]


def _cache(kind: str, start: Tensor, section: ClustersSection, world: World) -> ClusterCache:
    k, dimension = start.shape
    if kind == "none":
        return NoCache(world)
    if kind == "exact":
        return ExactCache(k, section.cache_batches * section.batch_rows, dimension, start.device, world)
    return RingCache(k, section.cache_batches, section.batch_rows, dimension, start.device, world)
