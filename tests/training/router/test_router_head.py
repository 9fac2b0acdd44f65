from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from training.router.head import agreement, fit_head, fit_temperature

H = 24
rng = np.random.default_rng(0)
CENTRES = rng.normal(size=(4, H))
# Columns of very different size and far from zero: what standardising is for.
SCALES = np.logspace(-3, 2, H)


def blobs(labels: list[int], rows: int, spread: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    y = np.repeat(labels, rows)
    x = (CENTRES[y] + spread * rng.normal(size=(len(y), H)) + 5) * SCALES
    return x.astype(np.float32), y


def test_it_learns_separable_labels_and_its_logits_are_linear() -> None:
    train, test = blobs([0, 1, 2, 3], 100), blobs([0, 1, 2, 3], 50)
    head = fit_head(*train, 4, seed=0)
    assert head.W.shape == (4, H)
    assert head.b.shape == (4,)
    assert head.W.dtype == head.b.dtype == np.float32
    assert agreement(head.logits(test[0]), test[1]) > 0.95
    by_hand = test[0][7].astype(float) @ head.W.T.astype(float) + head.b
    assert head.logits(test[0])[7] == pytest.approx(by_hand, abs=1e-3)


def test_the_head_is_the_smallest_that_is_not_told_apart_from_the_best() -> None:
    """One binary feature, frequencies 0.8 and 0.3: within a standard error of their entropy."""
    x = np.repeat([0.0, 1.0], 1000)[:, None].astype(np.float32)
    y = np.concatenate([np.arange(1000) < 800, np.arange(1000) < 300]).astype(int)
    head = fit_head(x, y, 2, seed=0)
    losses = -log_softmax(head.logits(x), axis=1)[np.arange(2000), y]
    lowest = -np.mean([0.8 * np.log(0.8) + 0.2 * np.log(0.2), 0.3 * np.log(0.3) + 0.7 * np.log(0.7)])
    error = losses.std() / np.sqrt(400)  # of the fifth that the strength is chosen on
    assert lowest < losses.mean() < lowest + 1.5 * error
    exact = np.log(0.8 / 0.2) - np.log(0.3 / 0.7)
    found = (head.W[0] - head.W[1])[0]
    assert 0.5 * exact < found < 0.95 * exact


@pytest.mark.parametrize("present", [[0, 2], [3], [1, 2, 3]])
def test_labels_without_rows_still_have_outputs_and_are_never_chosen(present: list[int]) -> None:
    x, y = blobs(present, 80)
    head = fit_head(x, y, 4, seed=0)
    logits = head.logits(x)
    assert logits.shape == (len(x), 4)
    assert np.isfinite(logits).all()
    assert set(logits.argmax(axis=1)) <= set(present)
    absent = [label for label in range(4) if label not in present]
    assert softmax(logits, axis=1)[:, absent].max() < 0.05


def test_two_labels_and_one() -> None:
    x, y = blobs([0, 1], 60)
    assert agreement(fit_head(x, y, 2, seed=0).logits(x), y) > 0.95
    only = fit_head(x, np.zeros(len(x), int), 1, seed=0)
    assert only.W.shape == (1, H)
    assert agreement(only.logits(x), np.zeros(len(x), int)) == 1.0


def test_few_rows_are_enough_to_learn_from() -> None:
    x, y = blobs([0, 1, 2], 3, spread=0.1)
    assert agreement(fit_head(x, y, 3, seed=0).logits(x), y) == 1.0


def test_labels_that_mean_nothing_are_not_believed() -> None:
    """The strength of the regularisation follows the held-out rows: noise is not learned by heart."""
    x = rng.normal(size=(300, 150)).astype(np.float32)
    y = rng.integers(0, 3, 300)
    logits = fit_head(x, y, 3, seed=0).logits(rng.normal(size=(500, 150)).astype(np.float32))
    assert softmax(logits, axis=1).max(axis=1).mean() < 0.5  # by heart it would be above 0.9


def test_a_label_without_rows_has_its_share_of_one_row() -> None:
    """80 rows of one label, and one row shared by four: at the mean, (1/4) / 81 for each of the others."""
    x, y = blobs([3], 80)
    at_the_mean = softmax(fit_head(x, y, 4, seed=0).logits(x.mean(axis=0, keepdims=True)), axis=1)[0]
    assert at_the_mean == pytest.approx([0.25 / 81] * 3 + [1 - 0.75 / 81], rel=0.05)


def test_the_same_seed_gives_the_same_head() -> None:
    x, y = blobs([0, 1, 2, 3], 40)
    assert np.array_equal(fit_head(x, y, 4, seed=3).W, fit_head(x, y, 4, seed=3).W)


def test_wrong_labels_are_refused() -> None:
    x, y = blobs([0, 1, 3], 10)
    with pytest.raises(ValueError, match=r"0\.\.2, found 0\.\.3"):
        fit_head(x, y, 3, seed=0)
    with pytest.raises(ValueError, match="at least one row"):
        fit_head(x[:0], y[:0], 3, seed=0)


@pytest.mark.parametrize("scale", [0.2, 0.7, 1.0, 3.0, 8.0])
def test_the_temperature_recovers_a_known_scaling(scale: float) -> None:
    true = rng.normal(size=(6000, 5)) * 2
    labels = (true + rng.gumbel(size=true.shape)).argmax(axis=1)  # drawn from softmax(true)
    assert fit_temperature(true * scale, labels) == pytest.approx(scale, rel=0.06)


def test_the_temperature_lowers_the_cross_entropy() -> None:
    logits = rng.normal(size=(300, 3)) * 6
    labels = (logits / 4 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    rows = np.arange(300)

    def loss(temperature: float) -> float:
        return float(-log_softmax(logits / temperature, axis=1)[rows, labels].mean())

    found = fit_temperature(logits, labels)
    assert loss(found) < loss(1.0)
    assert loss(found) <= min(loss(t) for t in np.linspace(0.5, 15, 200)) + 1e-3


def test_a_faultless_head_is_not_believed_without_end() -> None:
    few, many = (np.tile(np.eye(3) * 4.0, (rows, 1)) for rows in (4, 400))
    sure = [softmax(x / fit_temperature(x, x.argmax(axis=1)), axis=1).max() for x in (few, many)]
    assert 0.9 < sure[0] < 0.99 < sure[1] < 1.0


def test_agreement_counts_rows() -> None:
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 9.0]])
    assert agreement(logits, np.array([0, 1, 1, 1])) == 0.75
    for judge in (agreement, fit_temperature):
        with pytest.raises(ValueError, match="held-out"):
            judge(logits[:0], np.array([], int))
