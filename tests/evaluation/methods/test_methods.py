"""What only one of the methods does."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.methods.elrea import birch_labels, mean_directions, standardised_softmax
from evaluation.methods.one_lora import OneLora
from evaluation.methods.random_clusters import RandomClusters
from evaluation.methods.served import Served
from evaluation.seed.partition import Fitted, Partition, one_expert_each
from evaluation.seed.projected_gradients import of_instruction, projected_gradients
from evaluation.seed.scoring import Scores
from evaluation.seed.seed_run import SeedRun
from evaluation.table_one import learning_rate
from evaluation.table_one.learning_rate import choose_rate
from evaluation.table_one.recipe import CompareSection
from tests.stand_ins.tiny_comparison import Files, seed_run
from training.errors import TrainingError


@pytest.fixture(scope="module")
def run(files: Files, tmp_path_factory: pytest.TempPathFactory) -> SeedRun:
    return seed_run(files, tmp_path_factory.mktemp("methods"))


def test_random_clusters_have_our_sizes_and_not_our_rows(
    run: SeedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Partition] = []

    def stop(run: SeedRun, partition: Partition, *others: object) -> None:
        seen.append(partition)
        raise TrainingError("enough")

    monkeypatch.setattr("evaluation.methods.random_clusters.train_partition", stop)
    with pytest.raises(TrainingError, match="enough"):
        RandomClusters().fit(run, 1e-3)
    ours, drawn = run.clusters.labels, seen[0].labels
    for rows in (run.train, run.validation, run.test):
        assert np.array_equal(np.bincount(ours[rows], minlength=2), np.bincount(drawn[rows], minlength=2))
    assert not np.array_equal(ours[run.train], drawn[run.train])


def test_labels_of_the_runs_own_rows_are_stage_twos(run: SeedRun) -> None:
    # The test rows of this run are its first four rows again: whatever went another way would show here.
    assert np.array_equal(run.clusters.labels[run.test], run.clusters.labels[:4])
    assert np.bincount(run.clusters.labels[run.train]).tolist() == run.clusters.assigned.rows


def test_one_expert_each_asks_the_cluster_or_the_router() -> None:
    partition = Partition("p", np.array([0, 1, 2, 1]), np.array([0, 2, 2, 1]), 3)
    fitted = one_expert_each(partition, ())
    assert fitted.weights["oracle"].argmax(1).tolist() == [0, 1, 2, 1]
    assert fitted.weights["router"].argmax(1).tolist() == [0, 2, 2, 1]
    assert fitted.weights["router"].sum(1).tolist() == [1, 1, 1, 1]
    assert fitted.judged_by == "router"
    assert fitted.agreement(np.arange(4)) == 0.75
    assert Fitted((), {"all": np.ones((4, 1))}, 0).agreement(np.arange(4)) is None


def test_an_instructions_gradient_knows_nothing_of_the_response(run: SeedRun) -> None:
    row = run.rows[0]
    question = of_instruction(row)
    assert list(question.input_ids) == list(row.input_ids[: row.prompt_length])
    assert question.labels[1:] == list(question.input_ids[1:])
    assert question.labels[0] == -100


def test_projection_keeps_cosines(run: SeedRun) -> None:
    from training.gradients.source import make_unit_
    from training.gradients.supply import row_gradients

    rows = run.rows[:12]
    found = projected_gradients(run, "kept", run.warmup, rows)
    assert found.shape == (12, 8192)
    with row_gradients(run.inputs, run.warmup) as source:
        whole = source.whole(rows)
    make_unit_(whole)
    np.testing.assert_allclose(found @ found.T, (whole @ whole.T).numpy(), atol=5 / 8192**0.5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_birch_finds_two_far_groups_and_labels_every_row() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(0, 0.01, (60, 20)).astype(np.float32)
    rows[::2, 0] += 1
    rows[1::2, 1] += 1
    labels, k = birch_labels(rows, np.arange(0, 40), 2, seed=0)
    assert k == 2
    assert len(set(labels[::2])) == len(set(labels[1::2])) == 1
    assert labels[0] != labels[1]


def test_weights_are_a_softmax_of_what_stands_out() -> None:
    found = standardised_softmax(np.array([[0.10, 0.11, 0.12], [0.1, 0.5, 0.9], [0.3, 0.3, 0.3]]))
    np.testing.assert_allclose(found.sum(1), 1)
    np.testing.assert_allclose(found[0], found[1])  # the scale of cosines does not count
    np.testing.assert_allclose(found[2], 1 / 3)
    assert found[0].argmax() == 2


def test_mean_directions_are_unit_means_of_their_rows() -> None:
    rows = np.array([[1.0, 0], [0, 1], [1, 0]], dtype=np.float32)
    np.testing.assert_allclose(
        mean_directions(rows, np.array([0, 0, 1]), 2), [[0.5**0.5, 0.5**0.5], [1, 0]], rtol=1e-6
    )


def test_the_rate_is_chosen_on_validation_rows_alone(run: SeedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {5e-4: float("nan"), 1e-3: 3.0, 2e-3: 2.0}
    asked: list[np.ndarray] = []

    def fake(run: SeedRun, name: str, fitted: Fitted, places: np.ndarray) -> dict[str, Scores]:
        asked.append(places)
        loss = losses[float(name.split("-at-")[1].removesuffix("-validation"))]
        tokens = np.ones(len(places), dtype=np.int64)
        return {"all": Scores(loss * tokens, tokens, tokens)}

    class Untrained(OneLora):
        def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
            return Fitted((), {"all": np.ones((len(run.rows), 1))}, 0)

    monkeypatch.setattr(learning_rate, "score", fake)
    rate, tried = choose_rate(run, Untrained(), CompareSection())
    assert rate == 2e-3
    assert set(tried) == set(losses)
    assert tried[1e-3] == pytest.approx(3.0)
    assert all(np.array_equal(places, run.validation) for places in asked)
    assert not set(run.validation) & set(run.train)


def test_as_served_an_expert_answers_where_the_gate_lets_it_and_the_fallback_elsewhere(
    run: SeedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three rows are too few to show anything: one LoRA answers everything.
    fitted = Served().fit(run, 1e-3)
    assert [model.name for model in fitted.models] == ["served-fallback", "served-0", "served-1"]
    assert (fitted.weights["router"].argmax(1) == 0).all()
    seen = []

    def first_alone(losses: np.ndarray, probabilities: np.ndarray, folds: np.ndarray) -> np.ndarray:
        seen.append((losses.shape, probabilities.shape))
        return np.array([0.0, np.inf])

    monkeypatch.setattr("evaluation.methods.served.decide", first_alone)
    routes = run.routed("again", run.readable_clusters.labels, 2).routes
    fitted = Served().fit(run, 1e-3)
    assert fitted.weights["router"].argmax(1).tolist() == np.where(routes == 0, 1, 0).tolist()
    gated = len(run.validation) - len(run.inputs.split.stopping)
    assert seen == [((gated, 3), (gated, 2))]
    assert fitted.row_visits <= len(run.train) + 2 * 4  # each expert may end with a whole batch
