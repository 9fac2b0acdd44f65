"""Made-up gradients around K directions, and a calibration of them in one line."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tests.stand_ins.tiny_model import PlantedSource
from training.clusters.centroids import Calibrated, Movement, Readable, calibrate
from training.clusters.readable import UNKNOWN, in_folds
from training.progress import Advance, ignore_progress
from training.recipe import ClustersSection
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

K, D, N = 3, 24, 150
SECTION = ClustersSection(
    batch_rows=16, cache_batches=2, beta=0.8, max_epochs=3, max_drift=1e-9, max_churn=1e-9
)


def planted_gradients(spread: float) -> Tensor:
    """Rows of very different norm around K directions."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.linalg.qr(torch.randn(D, D, generator=generator))[0][:K]
    labels = torch.randint(K, (N,), generator=generator)
    noise = spread * torch.randn(N, D, generator=generator)
    return (centres[labels] + noise) * torch.logspace(-2, 2, N)[:, None]


def start_centroids() -> Tensor:
    return normalize(torch.randn(K, D, generator=torch.Generator().manual_seed(3)), dim=1)


def never() -> Checkpoint:
    """One that is never due and finds nothing."""
    return Checkpoint(Path("/nowhere"), "", math.inf, World())


def run(
    source: Tensor | PlantedSource,
    section: ClustersSection = SECTION,
    seed: int = 0,
    *,
    cache: str = "exact",
    look_ahead: int = 1,
    start: Tensor | None = None,
    checkpoint: Checkpoint | None = None,
    advance: Advance = ignore_progress,
    readable: Readable | None = None,
) -> Calibrated:
    planted = PlantedSource(source) if isinstance(source, Tensor) else source
    return calibrate(
        planted,
        range(len(planted.gradients)),
        start_centroids() if start is None else start,
        section,
        Movement(cache, look_ahead),
        seed,
        checkpoint or never(),
        advance,
        readable,
    )


def drawn_by_prompts(weight: float = 0.1) -> Readable:
    """Prompts that say a little of the planted directions; the first forty rows have a label at the start."""
    embeddings = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
    embeddings[:, :3] += normalize(planted_gradients(0.4), dim=1)[:, :3] * 3
    start = np.full(N, UNKNOWN)
    start[:40] = np.arange(40) % K
    prompts = in_folds(embeddings.numpy(), range(N), [str(row) for row in range(N)], 0)
    return Readable(weight, prompts, start)
