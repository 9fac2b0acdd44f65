"""What Stage II costs beside its first pass: peak memory by the number of rows, a second epoch from the disk."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gradient_shapes import Shape, adapted, random_row
from training.clusters.assignment import assign, compare_rows
from training.clusters.centroids import Movement, calibrate
from training.clusters.count import choose_clusters
from training.clusters.gram import ProbeGradients
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed
from training.gradients.store import StoredGradients
from training.recipe import ClustersSection
from training.rows.rendering import TokenRow
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

_CLUSTERS = 4
_PROBE_ROWS = 96
_PROBE_BLOCK_ROWS = 32
_PRELOADED = ["benchmarks.stage_two_cost"]
_MOVEMENT = Movement(cache="ring", look_ahead_batches=4)


def small_shape() -> Shape:
    """A Llama of random weights that runs thousands of rows in seconds: d = 144,384."""
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return Shape("small", torch.device("cpu"), 0, lambda: LlamaForCausalLM(config))


def peaks_by_rows(counts: Sequence[int], tokens: int) -> dict[int, float]:
    """Peak memory in MB of Stage II over that many rows of at most `tokens` tokens, each in a process of its own."""
    # A forked process takes over its parent's memory, so the parent is one that has imported and done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    found = {}
    for count in counts:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found[count] = process.submit(_peak, count, tokens).result()
    return found


def second_epoch_share(shape: Shape, rows: Sequence[TokenRow]) -> float:
    """Time of a second epoch of calibration over that of the first, with the gradients on disk.

    The first computes every gradient and writes it; the second reads. Both assign, cache and move the centroids.
    """
    section = ClustersSection(max_epochs=2, max_drift=1e-30)
    lengths = [len(row.input_ids) for row in rows]
    marks: list[float] = []  # when which row came out of the store
    with (
        tempfile.TemporaryDirectory(prefix="gradients-") as folder,
        RowGradients(adapted(shape), 0, section.micro_batch_tokens) as source,
    ):
        source.whole(rows[:1])  # what the first pass of all costs is no epoch's
        stored = StoredGradients(Path(folder), "benchmark", lengths, source.dimension, World())
        try:
            begin = time.perf_counter()
            stored.fill(source, rows, lambda done, /: None)
            calibrate(
                stored,
                range(len(rows)),
                _start(source),
                section,
                replace(_MOVEMENT, cache="exact"),
                0,
                Checkpoint(Path(folder) / "checkpoint", "benchmark", 1e9, World()),
                lambda done, /: marks.extend([time.perf_counter()] * done),
            )
            end = time.perf_counter()
        finally:
            stored.close()
    between = marks[len(rows)]  # the second epoch's first row
    return (end - between) / (between - begin)


def _peak(count: int, tokens: int) -> float:
    torch.set_num_threads(1)
    section = ClustersSection(k=_CLUSTERS, max_epochs=1, micro_batch_tokens=512)
    rows = [random_row(number, tokens // 2, tokens - tokens // 2 - number % 4) for number in range(count)]
    numbers, lengths, world = range(count), [len(row.input_ids) for row in rows], World()
    with (
        tempfile.TemporaryDirectory(prefix="stage-two-") as folder,
        RowGradients(adapted(small_shape()), 0, section.micro_batch_tokens) as gradients,
    ):
        source = Recomputed(gradients, rows, world)
        checkpoint = Checkpoint(Path(folder), "benchmark", section.checkpoint_seconds, world)
        probe = ProbeGradients(source, numbers[: min(_PROBE_ROWS, count)], _PROBE_BLOCK_ROWS, world)
        start = choose_clusters(probe.gram(checkpoint), section, 0)
        centroids = normalize(probe.weighted_sums(start.weights), dim=1)  # [K, d]
        done = calibrate(source, numbers, centroids, section, _MOVEMENT, 0, checkpoint, lambda more, /: None)
        compared = compare_rows(source, lengths, done.centroids, checkpoint, lambda more, /: None)
        assign(compared, np.ones(count, dtype=bool), section.min_rows)
    return _peak_memory_mb()


def _start(source: RowGradients) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(_CLUSTERS, source.dimension, generator=generator), dim=1).to(source.device)


def _peak_memory_mb() -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no line VmHWM: peak memory is measured on Linux only.")
