"""K, and where the centroids start, from nothing but a Gram matrix."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.planted import isotropic, planted
from training.clusters import count as cluster_count
from training.clusters.count import ClusterStart, choose_clusters
from training.clusters.readable import in_folds
from training.errors import RecipeError
from training.recipe import ClustersSection


@pytest.fixture(autouse=True)
def _few_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds, not minutes: what twenty splits cost stands in docs/cluster-count.md."""
    monkeypatch.setattr(cluster_count, "_SPLITS", 8)


def choose(
    rows: Tensor, seed: int = 0, embeddings: np.ndarray | None = None, **choices: object
) -> ClusterStart:
    """Unless other embeddings are given, a prompt betrays its gradient entirely."""
    section = ClustersSection.model_validate(
        {"rule": "routed", "n_init": 3, "thresholds": [0.9], "readable": 0.0} | choices
    )
    prompts = in_folds(
        rows.numpy() if embeddings is None else embeddings,
        range(len(rows)),
        list(map(str, range(len(rows)))),
        0,
    )
    return choose_clusters(rows @ rows.T, section, seed, prompts)


@pytest.mark.parametrize("rule", ["routed", "paper"])
@pytest.mark.parametrize(("k", "k_max"), [(2, 4), (5, 7)])
def test_planted_clusters_are_found(rule: str, k: int, k_max: int) -> None:
    rows, labels = planted(k)
    start = choose(rows, rule=rule, k_max=k_max)
    assert start.k == k
    assert start.distinguishable is True
    assert start.warnings == ()
    assert adjusted_rand_score(labels, start.probe_labels) == 1.0


@pytest.mark.parametrize(("rule", "k"), [("routed", 4), ("paper", 4), ("routed", 1), ("paper", 1)])
def test_the_lift_is_exact(rule: str, k: int) -> None:
    """sum_i weights[i, k] g_i in R^d are the very centroids that the labels come from."""
    rows, _ = planted(4, spread=0.3)
    start = choose(rows, rule=rule, k=k, thresholds=[1.0])
    assert start.weights.shape == (len(rows), k)
    lifted = start.weights.T @ rows  # [k, d]
    labels = torch.tensor(start.probe_labels)
    means = torch.stack([rows[labels == label].mean(0) for label in range(k)])
    assert float((lifted - means).abs().max()) < 1e-9
    if rule == "routed":  # spherical: by cosine
        assert (rows @ normalize(lifted, dim=1).T).argmax(1).tolist() == labels.tolist()
    else:  # K-means: by distance
        assert torch.cdist(rows, lifted).argmin(1).tolist() == labels.tolist()


def test_the_papers_rule_is_the_papers() -> None:
    """Against the same thing done in R^d: SVD, K-means on G V_k, silhouette of the exact cosine distance."""
    rows, _ = planted(3, spread=0.25)
    start = choose(rows, rule="paper", k_max=5, n_init=2, thresholds=ClustersSection().thresholds)
    _, singular, v = torch.linalg.svd(rows, full_matrices=False)
    energy = singular.square()
    distance = (1 - rows @ rows.T).clamp_min(0).fill_diagonal_(0).numpy()
    expected = {}
    for threshold in (0.80, 0.85, 0.90, 0.95):
        components = int((energy.cumsum(0) / energy.sum() < threshold).sum()) + 1
        for k in range(2, 6):
            means = KMeans(k, n_init=2, random_state=0).fit((rows @ v[:components].T).numpy())
            score = silhouette_score(distance, means.labels_, metric="precomputed")
            expected[threshold, k] = (components, score, means.labels_)
    assert [(point.threshold, point.k) for point in start.grid] == list(expected)
    for point, (components, score, _) in zip(start.grid, expected.values(), strict=True):
        assert point.components == components
        assert point.silhouette == pytest.approx(score, abs=1e-9)
    (_, k), (components, _, labels) = max(expected.items(), key=lambda item: item[1][1])
    assert (start.k, start.components) == (k, components)
    assert adjusted_rand_score(labels, start.probe_labels) == 1.0


def paired_bundles() -> tuple[Tensor, np.ndarray]:
    """Four bundles, two and two of them close together."""
    rows, labels = planted(4, each=30, spread=0.2)
    pairs = torch.zeros(2, rows.shape[1], dtype=torch.float64)
    pairs[0, 0] = pairs[1, 1] = 1.5
    return normalize(rows + pairs[torch.tensor(labels) // 2], dim=1), labels


def test_the_rules_may_differ() -> None:
    """The silhouette sees two clusters; unseen rows that find their way to four of them fare better."""
    rows, labels = paired_bundles()
    theirs, ours = (choose(rows, rule=rule, k_max=6) for rule in ("paper", "routed"))
    assert (theirs.k, ours.k) == (2, 4)
    assert adjusted_rand_score(labels, ours.probe_labels) == 1.0
    assert theirs.distinguishable is False
    assert theirs.warnings[-1].startswith("K = 2 is worse than K = 4: ")
    assert "and K = 2 is ahead in 0 of 8 random splits" in theirs.warnings[-1]
    assert theirs.warnings[-1].endswith("clusters.rule=routed chooses by this cosine, or fix clusters.k.")


def test_clusters_that_no_prompt_betrays_are_not_chosen() -> None:
    """The same four bundles, but the prompts tell only the pairs apart: two experts are all that can be routed to."""
    rows, labels = paired_bundles()
    noise = np.random.default_rng(0).normal(size=(len(labels), 6))
    prompts = np.concatenate([np.eye(2)[labels // 2], 0.1 * noise], axis=1).astype(np.float32)
    start = choose(rows, embeddings=prompts, k_max=6)
    assert start.k == 2
    assert start.distinguishable is True
    nothing = choose(rows, embeddings=noise.astype(np.float32), k_max=3)
    assert (nothing.k, nothing.probe_labels) == (1, (0,) * len(labels))
    assert nothing.warnings[0].startswith("Don't split: the cosine of an unseen row")
    forced = choose(rows, embeddings=noise.astype(np.float32), k_min=2, k_max=3)
    assert forced.distinguishable is False
    assert forced.warnings[0].startswith(f"K = {forced.k} is worse than one cluster: ")


def test_without_embeddings_only_the_papers_rule_can_choose() -> None:
    rows, _ = planted(3)
    section = ClustersSection(n_init=2, k_max=4, thresholds=(0.9,), rule="paper")
    start = choose_clusters(rows @ rows.T, section, 0)
    assert (start.k, start.halves, start.distinguishable, start.warnings) == (3, None, None, ())
    with pytest.raises(ValueError, match="no K can be chosen by rule 'routed'"):
        choose_clusters(rows @ rows.T, section.model_copy(update={"rule": "routed"}), 0)


@pytest.mark.parametrize("rule", ["routed", "paper"])
def test_noise_is_said_to_be_noise(rule: str) -> None:
    prompts = np.random.default_rng(0).normal(size=(120, 8)).astype(np.float32)
    start = choose(isotropic(120, 500), embeddings=prompts, rule=rule, k_max=5)
    assert start.distinguishable is False
    said = start.warnings[0]
    if rule == "routed":  # one cluster is a choice of its rule alone
        assert start.k == 1
        assert said.startswith(
            "Don't split: the cosine of an unseen row with the centroid it is routed to is "
        )
        assert said.endswith("One adapter is trained on all rows (clusters.k_min=2 splits all the same).")
    else:
        assert said.startswith(f"K = {start.k} is not distinguishable from ")
        assert "Take a larger probe (split.probe_at_least; this one has 120 rows), or fix clusters.k." in said


def test_the_largest_k_tried_is_said_to_be_it() -> None:
    rows, _ = planted(4)
    start = choose(rows, k_min=4, k_max=4)
    assert start.distinguishable is True  # from nothing: no neighbour was tried
    assert start.warnings == (
        "K = 4 is the largest that was tried: raise clusters.k_max to see whether more are better.",
    )


def test_the_smallest_k_that_is_as_good_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted(3)
    real = cluster_count.split_in_halves

    def doctored(*arguments: object) -> object:
        halves = real(*arguments)  # type: ignore[arg-type]
        # K = 4 has the highest mean; K = 3 is behind by less than the spread of the difference, K = 2 by more.
        turns = np.where(np.arange(8) % 2 == 0, 0.02, -0.02)
        halves.one_cluster[:] = 0.05
        halves.routed[:] = np.stack([0.10 + 0 * turns, 0.49 + turns, 0.50 + 0 * turns], axis=1)
        return halves

    monkeypatch.setattr(cluster_count, "split_in_halves", doctored)
    start = choose(rows, k_max=4)
    assert start.k == 3
    assert start.distinguishable is False
    assert "K = 3 is not distinguishable from K = 4" in start.warnings[0]
    assert "0.4900 ± 0.0214 against 0.5000 ± 0.0000, and K = 3 is ahead in 4 of 8" in start.warnings[0]
    assert len(start.warnings) == 1


def test_the_summary_has_all_figures_and_is_json() -> None:
    rows, _ = planted(3, spread=0.3)
    start = choose(rows, k_max=5)
    summary = start.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["rule"], summary["k"], summary["components"]) == ("routed", start.k, start.k)
    assert summary["distinguishable"] is start.distinguishable
    assert summary["warnings"] == list(start.warnings)
    halves = summary["halves"]
    assert halves["splits"] == 8
    assert [line["k"] for line in halves["by_k"]] == [2, 3, 4, 5]
    assert start.halves is not None
    measures = {
        "silhouette": start.halves.silhouettes,
        "routed": start.halves.routed,
        "agreement": start.halves.agreement,
    }
    for place, line in enumerate(halves["by_k"]):
        for name, values in measures.items():
            found = line[name]
            assert found["mean"] == pytest.approx(values[:, place].mean())
            ordered = np.sort(values[:, place])
            assert ordered[0] <= found["low"] <= ordered[1]
            assert ordered[-2] <= found["high"] <= ordered[-1]
        best = start.halves.routed.max(1)
        assert line["won"]["routed"] == pytest.approx((start.halves.routed[:, place] == best).mean())
    for rule in ("paper", "routed"):
        assert sum(line["won"][rule] for line in halves["by_k"]) == pytest.approx(1)


def test_the_spectrum_is_that_of_the_rows() -> None:
    rows, _ = planted(4)
    start = choose(rows, k=4, n_init=1)
    singular = torch.linalg.svdvals(rows)
    assert torch.allclose(torch.tensor(start.singular_values, dtype=torch.float64), singular, atol=1e-6)
    energy = singular.square()
    assert start.summary()["first_direction_share"] == pytest.approx(float(energy[0] / energy.sum()))
    for point in start.grid:
        kept = energy[: point.components].sum() / energy.sum()
        assert kept >= point.threshold
        assert energy[: point.components - 1].sum() / energy.sum() < point.threshold


@pytest.mark.parametrize("rule", ["routed", "paper"])
@pytest.mark.parametrize("k", [1, 2, 6])
def test_the_recipe_can_fix_k(rule: str, k: int) -> None:
    rows, _ = planted(3)
    start = choose(rows, rule=rule, k=k)
    assert start.k == k == start.weights.shape[1]
    assert set(start.probe_labels) == set(range(k))
    assert {point.k for point in start.grid} == {k}
    assert start.halves is None
    assert start.distinguishable is None
    assert start.warnings == ()
    assert start.summary()["halves"] is None


def test_a_probe_too_small_for_the_range() -> None:
    with pytest.raises(RecipeError) as refused:
        choose(isotropic(39, 50))
    assert str(refused.value) == (
        "The probe's 39 rows are too few to try up to K = 10 clusters on: at least 40 are needed, 4 per cluster. "
        "Raise split.probe_at_least (and give more rows, if there are none left for it), lower clusters.k_max, or fix "
        "clusters.k."
    )
    assert choose(isotropic(16, 50), k_max=4, n_init=1).k <= 4
    with pytest.raises(RecipeError, match=r"15 rows are too few to try up to K = 4 .* at least 16"):
        choose(isotropic(15, 50), k_max=4)
    with pytest.raises(
        RecipeError, match=r"9 rows are too few for K = 9\. Raise .*, or lower clusters\.k\.$"
    ):
        choose(isotropic(9, 50), k=9)
    assert choose(isotropic(9, 50), k=8, n_init=1).k == 8


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
@pytest.mark.parametrize("rule", ["routed", "paper"])
def test_rows_that_are_all_alike(rule: str) -> None:
    start = choose(torch.ones(12, 1, dtype=torch.float64), rule=rule, k_max=3, n_init=1)
    assert (start.k, start.distinguishable) == (1 if rule == "routed" else 2, False)
    assert bool(torch.isfinite(start.weights).all())
    assert bool((start.weights.sum(0) > 0).any())


@pytest.mark.parametrize("rule", ["routed", "paper"])
def test_the_same_seed_gives_the_same_start(rule: str) -> None:
    rows, _ = planted(4, spread=0.4)
    first, second = (choose(rows, seed=7, rule=rule, k_max=4, n_init=1) for _ in range(2))
    assert torch.equal(first.weights, second.weights)
    assert first.summary() == second.summary()
    other = choose(rows, seed=8, rule=rule, k_max=4, n_init=1)
    assert other.summary()["halves"] != first.summary()["halves"]
