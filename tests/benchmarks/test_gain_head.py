"""A head that predicts gains, on planted ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.gain_head import by_gain_head


def test_gains_that_the_encoding_shows_are_found_and_others_left_alone() -> None:
    draw = np.random.default_rng(0)
    embeddings, folds = draw.normal(size=(400, 5)), np.arange(400) % 5
    gain = np.stack(
        [embeddings[:, 0], np.full(400, 3.0)], axis=1
    )  # expert 0 helps where the first feature is below 0
    found = by_gain_head(embeddings, gain + 0.05 * draw.normal(size=(400, 2)), folds)
    assert found.mean() == pytest.approx(np.minimum(embeddings[:, 0], 0).mean(), abs=0.02)
    assert (found[embeddings[:, 0] > 0.1] == 0).all()
    noise = by_gain_head(embeddings, draw.normal(0.5, 1, size=(400, 2)), folds)
    assert abs(noise.mean()) < 0.05
