"""GS on the demo's own run: the prompt's gradient against the centroids that training left."""

from __future__ import annotations

import itertools
from array import array
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.router_rows import run_of, training_inputs
from bundle.read import read_bundle
from evaluation.evidence.gradient_router import GradientRouter
from training.errors import TrainingError
from training.gradients.source import make_unit_
from training.gradients.supply import row_gradients
from training.progress import Narrator, ignore_progress
from training.rows.rendering import TokenRow, prompt_ids
from training.run import Run
from training.stages.inputs import Inputs
from training.stages.store import FinishedStages

TEXTS = ["Tell a story about a mouse.", "How many apples are left?", "def add(a, b):"]


@pytest.fixture(scope="module")
def inputs(demo_bundle: Path) -> Inputs:
    return training_inputs(read_bundle(demo_bundle))


@pytest.fixture(scope="module")
def run(demo_bundle: Path, inputs: Inputs) -> Run:
    found = run_of(read_bundle(demo_bundle), inputs)
    if found is None:
        pytest.skip("NOT TESTED: the bundle lies in no run folder")
    return found


@pytest.fixture(scope="module")
def router(run: Run, demo_bundle: Path) -> GradientRouter:
    return GradientRouter(run, read_bundle(demo_bundle).manifest.label_order)


def test_the_cosines_are_those_of_the_prompts_own_gradient(
    router: GradientRouter, run: Run, inputs: Inputs
) -> None:
    centroids = run.centroids.centroids()  # [clusters, d], in their first order
    rows = []
    for text in TEXTS:
        ids = prompt_ids(inputs.tokenizer, ({"role": "user", "content": text},))
        rows.append(TokenRow("a prompt", None, text, array("i", ids), 1))
    with row_gradients(inputs, run.warmup) as source:
        unit = source.whole(rows)
    make_unit_(unit)
    expected = torch.sort((unit @ centroids.T).double(), dim=1).values.numpy()
    found = np.sort(router.cosines(TEXTS), axis=1)
    assert found.shape == (3, len(router.labels))
    if expected.shape == found.shape:  # no cluster was merged
        assert np.abs(found - expected).max() < 1e-4


def test_labels_are_the_bundles_and_not_the_centroids_order(
    router: GradientRouter, inputs: Inputs, demo_bundle: Path
) -> None:
    """On whole training rows the nearest centroid is mostly the label: only how well a prompt betrays it counts too."""
    from benchmarks.router_rows import training_rows

    labels = training_rows(read_bundle(demo_bundle), inputs).labels[:48]
    rows = inputs.pick(list(inputs.split.train)[:48])
    known = router._gradients
    nearest = known._compared(rows, known.centroids, ignore_progress).argmax(1)  # [rows]
    agree = {
        order: float(np.mean(np.array(order)[nearest] == labels))
        for order in itertools.permutations(range(len(router.labels)))
    }
    assert max(agree, key=agree.__getitem__) == tuple(range(len(router.labels)))
    assert agree[tuple(range(len(router.labels)))] > 0.7


def test_probabilities_sum_to_one_and_temperature_flattens_them(router: GradientRouter) -> None:
    sharp, flat = (router.with_temperature(t).probabilities([*TEXTS, ""]) for t in (0.1, 10.0))
    assert np.abs(sharp.sum(1) - 1).max() < 1e-5
    assert (sharp.max(1) > flat.max(1)).all()
    assert (sharp.argmax(1) == flat.argmax(1)).all()


def test_a_run_without_its_stages_is_a_sentence(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"its stage 'warmup' is not there"):
        GradientRouter(Run(inputs, FinishedStages(tmp_path / "stages", Narrator())), ("expert-0",))
