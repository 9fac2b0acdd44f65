from __future__ import annotations

import numpy as np
import torch

from training.clusters.cache import NoCache
from training.stages.processes import World


def test_only_the_batch_under_way_is_in_the_mean() -> None:
    cache = NoCache(World())
    cache.insert(np.array([0, 1, 0]), [0, 1, 2], torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, 2.0]]))
    assert cache.mean(0).tolist() == [1.0, 1.0]
    assert cache.mean(1).tolist() == [0.0, 4.0]
    cache.insert(np.array([0]), [0], torch.tensor([[8.0, 8.0]]))
    assert cache.mean(0).tolist() == [8.0, 8.0]
