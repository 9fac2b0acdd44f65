"""Calibration that is killed and goes on, or that several processes share: the same centroids, epochs and labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.stand_ins.planted_calibration import SECTION, K, N, drawn_by_prompts, planted_gradients, run
from tests.stand_ins.thread_world import together
from tests.stand_ins.tiny_model import PlantedSource
from training.clusters.centroids import Calibrated
from training.progress import Advance, ignore_progress
from training.stages.checkpoint import Checkpoint, SavedState
from training.stages.processes import World


class Killed(Exception):
    """The process, at a moment of the test's choice."""


class Mortal(PlantedSource):
    """Dies when it is asked for a window for the given time."""

    dies_at = 10**9

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        if len(self.calls) == self.dies_at:
            raise Killed
        return super().unit(rows, advance)


WINDOWS = 5  # of 2 batches, in an epoch of 150 rows


@pytest.mark.parametrize("cache", ["exact", "ring"])
@pytest.mark.parametrize("dies_at", [0, 1, 4, 5, 6, 9, 10, 14])
def test_killed_and_resumed_it_ends_bit_for_bit_the_same(cache: str, dies_at: int, tmp_path: Path) -> None:
    gradients = planted_gradients(0.4)
    undisturbed = run(gradients, cache=cache, look_ahead=2)

    def checkpoint() -> Checkpoint:
        return Checkpoint(tmp_path, "digest", 0.0, World())

    source = Mortal(gradients)
    source.dies_at = dies_at
    with pytest.raises(Killed):
        run(source, cache=cache, look_ahead=2, checkpoint=checkpoint())
    advanced: list[int] = []
    again = PlantedSource(gradients)
    found = run(again, cache=cache, look_ahead=2, checkpoint=checkpoint(), advance=advanced.append)
    assert torch.equal(found.centroids, undisturbed.centroids)
    assert found.epochs == undisturbed.epochs
    assert found.converged == undisturbed.converged
    assert len(again.calls) == 3 * WINDOWS - dies_at  # no window twice
    assert sum(advanced) == 3 * N


@pytest.mark.parametrize("dies_at", [2, 5, 7, 14])
def test_readable_clusters_are_the_same_after_a_kill(dies_at: int, tmp_path: Path) -> None:
    """In the first epoch, between two, and in a later one: heads are fitted anew to the labels that were saved."""
    gradients, readable = planted_gradients(0.4), drawn_by_prompts()
    undisturbed = run(gradients, look_ahead=2, readable=readable)
    assert not torch.equal(undisturbed.centroids, run(gradients, look_ahead=2).centroids)
    source = Mortal(gradients)
    source.dies_at = dies_at
    at = Checkpoint(tmp_path, "digest", 0.0, World())
    with pytest.raises(Killed):
        run(source, look_ahead=2, checkpoint=at, readable=readable)
    at = Checkpoint(tmp_path, "digest", 0.0, World())
    found = run(gradients, look_ahead=2, checkpoint=at, readable=readable)
    assert torch.equal(found.centroids, undisturbed.centroids)
    assert np.array_equal(found.labels, undisturbed.labels)
    assert found.epochs == undisturbed.epochs


def test_killed_again_and_again_with_another_look_ahead_each_time(tmp_path: Path) -> None:
    gradients = planted_gradients(0.4)
    undisturbed = run(gradients, cache="ring")
    for look_ahead, dies_at in [(1, 3), (3, 2), (2, 4), (1, 1), (4, 2)]:
        source = Mortal(gradients)
        source.dies_at = dies_at
        at = Checkpoint(tmp_path, "digest", 0.0, World())
        with pytest.raises(Killed):
            run(source, cache="ring", look_ahead=look_ahead, checkpoint=at)
    found = run(gradients, cache="ring", checkpoint=Checkpoint(tmp_path, "digest", 0.0, World()))
    assert torch.equal(found.centroids, undisturbed.centroids)
    assert found.epochs == undisturbed.epochs


@pytest.mark.parametrize("spoilt", ["digest", "processes", "file"])
def test_a_checkpoint_that_does_not_count_starts_over(spoilt: str, tmp_path: Path) -> None:
    gradients = planted_gradients(0.4)
    source = Mortal(gradients)
    source.dies_at = 7
    with pytest.raises(Killed):
        run(source, look_ahead=2, checkpoint=Checkpoint(tmp_path, "digest", 0.0, World()))
    at = Checkpoint(tmp_path, "digest", math.inf, World())
    if spoilt == "digest":
        at = Checkpoint(tmp_path, "other", math.inf, World())
    elif spoilt == "file":
        (file,) = tmp_path.glob("*.safetensors")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 4
        file.write_bytes(content)
    else:
        state = (tmp_path / "state.json").read_text()
        assert '"checksums": ["' in state
        together(2, lambda world: Checkpoint(tmp_path, "digest", 0.0, world).save({}, {}))
    again = PlantedSource(gradients)
    found = run(again, look_ahead=2, checkpoint=at)
    assert len(again.calls) == 3 * WINDOWS
    assert torch.equal(found.centroids, run(gradients).centroids)


def test_convergence_found_right_before_a_kill_still_ends_the_run(tmp_path: Path) -> None:
    """The last epoch was closed and saved; nobody may begin another."""
    gradients = planted_gradients(0.01)
    eager = SECTION.model_copy(update={"max_epochs": 20, "max_drift": 1e-3, "max_churn": 0.005})
    undisturbed = run(gradients, eager)
    assert undisturbed.converged

    class Dies(Checkpoint):
        def save(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
            super().save(facts, tensors)
            if len(facts["epochs"]) == len(undisturbed.epochs):
                raise Killed

    with pytest.raises(Killed):
        run(gradients, eager, checkpoint=Dies(tmp_path, "digest", 0.0, World()))
    source = PlantedSource(gradients)
    found = run(source, eager, checkpoint=Checkpoint(tmp_path, "digest", 0.0, World()))
    assert not source.calls
    assert found.converged
    assert found.epochs == undisturbed.epochs
    assert torch.equal(found.centroids, undisturbed.centroids)


def test_a_checkpoint_holds_all_of_the_state(tmp_path: Path) -> None:
    """Also the labels, this epoch's and the last one's: churn is counted from them."""
    at = Checkpoint(tmp_path, "digest", 0.0, World())
    run(planted_gradients(0.4), SECTION.model_copy(update={"max_epochs": 1}), checkpoint=at)
    saved = at.load()
    assert isinstance(saved, SavedState)
    assert saved.facts["done"] == 0
    labels = saved.tensors["labels"].numpy()
    assert np.bincount(labels, minlength=K).tolist() == saved.facts["epochs"][0]["sizes"]
    assert torch.equal(saved.tensors["labels"], saved.tensors["labels_before"])
    assert torch.equal(saved.tensors["centroids"], saved.tensors["before"])


class SharedOut(PlantedSource):
    """Rows dealt out over processes; one that is asked for another's row says so."""

    world = World()

    def owners(self, rows: Sequence[int]) -> list[int]:
        return [int(row * 7 % 5) % self.world.size for row in rows]

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        assert set(self.owners(rows)) <= {self.world.rank}
        return super().unit(rows, advance)


@pytest.mark.parametrize("weight", [0, 0.1])
@pytest.mark.parametrize("cache", ["exact", "ring"])
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_find_what_one_finds(cache: str, size: int, weight: float, tmp_path: Path) -> None:
    """Readable clusters too, though only the first process reads prompts."""
    gradients = planted_gradients(0.4)
    readable = drawn_by_prompts(weight) if weight else None
    alone = run(gradients, cache=cache, look_ahead=2, readable=readable)

    def work(world: World, dies_at: int = 10**9) -> tuple[Calibrated, int]:
        class Source(SharedOut, Mortal):
            pass

        source = Source(gradients)
        source.world, source.dies_at = world, dies_at
        at = Checkpoint(tmp_path / "at", "digest", 0.0, world)
        found = run(source, cache=cache, look_ahead=2, checkpoint=at, readable=readable)
        return found, sum(source.calls)

    with pytest.raises(Killed):
        together(size, lambda world: work(world, 8))
    everyone = together(size, work)
    assert sum(calls for _, calls in everyone) == 2 * N - 3 * 32  # what was left, shared out
    for found, calls in everyone:
        assert calls > 0
        assert torch.equal(found.centroids, everyone[0][0].centroids)
        assert float((found.centroids * alone.centroids).sum(1).min()) > 0.999999
        assert [epoch.sizes for epoch in found.epochs] == [epoch.sizes for epoch in alone.epochs]
        assert [epoch.churn for epoch in found.epochs] == [epoch.churn for epoch in alone.epochs]
