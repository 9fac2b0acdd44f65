"""Would splitting help? Asked beforehand, of a sample of rows and without training an expert (ours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.clusters.count import routed_choice
from training.clusters.gram import ProbeGradients
from training.clusters.probe_halves import Halves, split_in_halves
from training.clusters.readable import in_folds
from training.errors import RowsError
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed
from training.models.finetune import load_adapter
from training.stage_one import warm_up
from training.stages.checkpoint import Checkpoint
from training.stages.inputs import Inputs
from training.stages.processes import World
from training.stages.store import StageStore

_SPLITS = 20  # of the sample into random halves
_WARMUP_ROWS = 200  # that a short warm-up is trained on, at most
_HELD_BYTES = 1 << 30  # gradients held at once
_FEWEST = 32  # rows, below which halves of the sample say nothing


@dataclass(frozen=True)
class Line:
    """What one K has: the mean routed cosine of readable clusters and of K-means on prompts alone.

    ahead: share of the random splits in which the readable clusters are above one cluster for all.
    """

    k: int
    start: str
    readable: float
    text: float
    ahead: float


@dataclass(frozen=True)
class SplitEstimate:
    """The routed cosine of one cluster, and a line for each K; `k` is the smallest that is as good as any."""

    rows: int
    one_cluster: float
    lines: tuple[Line, ...]
    k: int

    @property
    def verdict(self) -> str:
        """All of it in one sentence."""
        one = f"one cluster has {self.one_cluster:.3f}"
        if self.k == 1:
            best = max(self.lines, key=lambda line: line.readable)
            return (
                f"Don't split: {one} as routed cosine, and K = {best.k}, the best of the others, with "
                f"{best.readable:.3f} is not ahead by more than the spread of {_SPLITS} splits."
            )
        chosen = next(line for line in self.lines if line.k == self.k)
        text = max(self.lines, key=lambda line: line.text)
        return (
            f"Splitting may help: K = {self.k} has a routed cosine of {chosen.readable:.3f}, {one}, and K-means on "
            f"prompts {text.text:.3f} at best (K = {text.k})."
        )

    def summary(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return asdict(self) | {"verdict": self.verdict}


def estimate_split(
    inputs: Inputs, folder: Path, store: StageStore, adapter: Path | None, rows: int
) -> SplitEstimate:
    """Measure the routed cosine (`training.clusters.probe_halves`) of each K on a sample of `rows` training rows.

    Their gradients are taken with the warm-up adapter in the folder `adapter`, or with one that is made for it of a few
    rows. `folder` is for scratch.

    Raises:
        TrainingError: there are too few rows, or a row's gradient is no number.

    """
    recipe, section = inputs.recipe, inputs.recipe.clusters
    others = np.setdiff1d(inputs.split.train, inputs.split.warmup)
    sample = np.sort(np.random.default_rng(recipe.seed).permutation(others)[:rows]).tolist()
    if len(sample) < _FEWEST:
        raise RowsError(
            f"{len(sample)} rows are left beside the warm-up's, and at least {_FEWEST} are needed. Give more rows."
        )
    if adapter is None:
        few = replace(inputs.split, warmup=inputs.split.warmup[:_WARMUP_ROWS])
        adapter = warm_up(replace(inputs, split=few), store).folder
    model = load_adapter(inputs.base, adapter, trainable=False, dtype=torch.float32)
    pad_id, budget = int(inputs.tokenizer.pad_token_id), section.micro_batch_tokens
    with RowGradients(model, pad_id, budget) as source:
        block = max(16, _HELD_BYTES // (4 * source.dimension))
        probe = ProbeGradients(Recomputed(source, inputs.rows, World()), sample, block, World())
        with store.narrator.bar("gradients", probe.computed_rows, "rows") as advance:
            gram = probe.gram(Checkpoint(folder, "", math.inf, World()), advance)  # [n, n]
    texts = [row.routed_text for row in inputs.pick(sample)]
    embeddings = inputs.encoder.embed(texts, recipe.router.max_tokens)  # [n, H]
    halves = split_in_halves(
        gram.double().cpu().numpy(),
        in_folds(embeddings, range(len(sample)), texts, recipe.seed),
        range(2, max(2, min(section.k_max, len(sample) // 8)) + 1),
        section.thresholds[:1],
        _SPLITS,
        recipe.seed,
        section.readable,
    )
    return SplitEstimate(
        len(sample), float(halves.one_cluster.mean()), tuple(_lines(halves)), routed_choice(halves, 1)
    )


def _lines(halves: Halves) -> Sequence[Line]:
    return [
        Line(
            k,
            halves.starts[place],
            float(halves.routed[:, place].mean()),
            float(halves.text[:, place].mean()),
            float((halves.routed[:, place] > halves.one_cluster).mean()),
        )
        for place, k in enumerate(halves.ks)
    ]
