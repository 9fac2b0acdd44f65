"""The evidence that trains experts: ablations, cohesion over K, curves, on one tiny run and in one store."""

from __future__ import annotations

from typing import Any

import pytest

from evaluation.errors import EvidenceError
from evaluation.evidence.ablations import DEFAULT, ablations
from evaluation.evidence.cluster_cohesion import cluster_cohesion
from evaluation.evidence.curves import curves
from tests.stand_ins.tiny_comparison import store_in
from training.errors import TrainingError
from training.run import Run
from training.stages.store import StageStore


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    return store_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def ablated(tiny_run: Run, store: StageStore) -> dict[str, Any]:
    exhibit = ablations(tiny_run, store, [], train=True)
    assert exhibit.failures == []
    return {one["name"]: one for one in exhibit.figures["variants"]}


def test_the_default_is_the_runs_own_partition_and_differs_from_itself_by_nothing(
    ablated: dict[str, Any],
) -> None:
    assert ablated["the run's own clusters"]["agreement"] == 1.0
    over = ablated[DEFAULT]["over_default"]
    assert {gap["mean"] for gap in over.values()} == {0.0}


def test_every_ablation_of_the_issue_is_there(ablated: dict[str, Any]) -> None:
    named = " | ".join(ablated)
    for part in ("8,192-dimensional", "raw rows", "means", "random rows", "ring", "none", "beta 0 ", "fresh"):
        assert part in named
    assert all(
        set(one["losses"]) == {"oracle", "router"} for one in ablated.values() if one["losses"] is not None
    )


def test_experts_that_start_fresh_are_other_experts_on_the_same_clusters(ablated: dict[str, Any]) -> None:
    fresh = ablated["experts from a fresh adapter"]
    assert fresh["agreement"] == 1.0
    assert fresh["losses"]["oracle"] > ablated[DEFAULT]["losses"]["oracle"]


def test_what_was_trained_is_not_trained_again(
    tiny_run: Run, ablated: dict[str, Any], store: StageStore
) -> None:
    again = store_in(store.folder.parent)
    ablations(tiny_run, again, [], train=True)
    assert all(result.kept for result in again.results.values())


def test_a_variant_that_fails_is_named_and_the_others_go_on(
    tiny_run: Run, store: StageStore, ablated: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluation.evidence import ablations as module

    def refuse(*arguments: object) -> None:
        raise TrainingError("no warm-up, no experts")

    monkeypatch.setattr(module, "fresh_adapter", refuse)
    exhibit = ablations(tiny_run, store, [], train=True)
    assert exhibit.failures == ["experts from a fresh adapter: no warm-up, no experts"]
    assert len(exhibit.figures["variants"]) == len(ablated) - 1


def test_cohesion_and_losses_over_k(tiny_run: Run, store: StageStore) -> None:
    found = cluster_cohesion(tiny_run, store, [2, 3], [], train=True).figures
    two, three = found["by_k"]
    assert two["inside"] > two["between"]
    assert -1 <= two["silhouette"] <= 1
    assert set(two["over_one"]) == {"oracle", "router"}
    assert two["losses"]["oracle"] - found["one_lora"] == pytest.approx(two["over_one"]["oracle"]["mean"])
    assert three["k"] == 3


def test_a_k_that_the_probe_is_too_small_for_is_refused(tiny_run: Run, store: StageStore) -> None:
    with pytest.raises(EvidenceError, match="below the probe's 16 rows"):
        cluster_cohesion(tiny_run, store, [2, 16], [], train=False)


def test_the_curves_meet_where_they_must(tiny_run: Run, store: StageStore) -> None:
    exhibit = curves(tiny_run, store, [])
    assert exhibit.failures == []
    found = exhibit.figures
    assert [place["at"] for place in found["shared"]] == [0, 25, 50, 75]
    assert (
        found["shared"][0]["losses"] == found["parts"][-1]["losses"]
    )  # nothing shared, all rows: GradientSpace
    rows = [place["at"] for place in found["parts"]]
    assert rows == sorted(rows)
    assert found["misrouting"]["by_share"][0.0] == pytest.approx(found["shared"][0]["losses"]["oracle"])
    assert found["misrouting"]["router"] == pytest.approx(found["shared"][0]["losses"]["router"])
