"""Partitions of one tiny run, each with experts of its own, and the routed cosine beside what they gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluation.errors import EvidenceError
from evaluation.evidence.exhibit import Exhibit
from evaluation.evidence.gradient_cosines import gradient_cosines
from evaluation.evidence.routed_cosine import OfPartition, _correlation, routed_cosine
from evaluation.intervals import Difference
from tests.stand_ins.tiny_comparison import store_in
from training.router.head import fit_head
from training.run import Run
from training.stages.store import StageStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    return store_in(tmp_path_factory.mktemp("routed-cosine"))


@pytest.fixture(scope="module")
def exhibit(tiny_run: Run, store: StageStore) -> Exhibit:
    found = routed_cosine(tiny_run, store, [2], [])
    assert found.failures == []
    return found


def test_each_partition_is_measured_once(exhibit: Exhibit, store: StageStore, tmp_path: Path) -> None:
    partitions = exhibit.figures["partitions"]
    names = [one["made_by"] for one in partitions]
    assert len(set(names)) == len(names)
    assert {"random", "prompts", "gradients"} < set(names)
    cosines = [one["routed_cosine"] for one in partitions]
    assert cosines == sorted(cosines, reverse=True)
    experts = {name for name in store.results if name.startswith("partition-") and "-at-" in name}
    assert len(experts) == sum(one["k"] for one in partitions)
    assert len(exhibit.write(tmp_path, "a command")) == 3


def test_the_routed_cosine_of_random_parts_by_hand(
    exhibit: Exhibit, tiny_run: Run, store: StageStore
) -> None:
    """Sums of whole unit gradients' inner products, and a head fitted here."""
    inputs = tiny_run.inputs
    train, unseen = np.asarray(inputs.split.train), np.asarray(inputs.split.validation)
    labels = np.random.default_rng(inputs.recipe.seed).permutation(len(train)) % 2
    embeddings = tiny_run.prompts.embeddings[: len(inputs.rows)]
    routes = fit_head(embeddings[train], labels, 2, inputs.recipe.seed).logits(embeddings[unseen]).argmax(1)
    cosines = gradient_cosines(inputs, store, tiny_run.warmup, inputs.rows).cosines
    expected = []
    for row, route in zip(unseen, routes, strict=True):
        members = train[labels == route]
        length = np.sqrt(cosines[np.ix_(members, members)].sum())
        expected.append(cosines[row, members].sum() / length)
    [random] = [one for one in exhibit.figures["partitions"] if one["made_by"] == "random"]
    assert random["routed_cosine"] == pytest.approx(np.mean(expected), abs=1e-6)


def test_what_falls_with_the_cosine_correlates() -> None:
    def of(cosine: float, loss: float) -> OfPartition:
        return OfPartition("by hand", 2, 1, cosine, None, {"router": Difference(loss, loss, loss)})

    falling = [of(place / 10, -place / 100 + 0.001 * (place % 2)) for place in range(8)]
    found = _correlation(falling, "router")
    assert found is not None
    assert found.low <= found.mean < -0.9
    assert _correlation(falling[:3], "router") is None


def test_a_k_beyond_the_rows_is_refused(tiny_run: Run, store: StageStore) -> None:
    with pytest.raises(
        EvidenceError, match=r"--ks must hold numbers from 2 to a quarter of the \d+ training"
    ):
        routed_cosine(tiny_run, store, [2, 400], [])
