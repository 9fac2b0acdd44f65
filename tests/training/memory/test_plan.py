"""The plan of Stage II: its decisions under budgets, and its figures against the code that runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.stand_ins.tiny_model import ROOT, PlantedSource, dozen_rows
from training.clusters.gram import ProbeGradients
from training.errors import TrainingError
from training.memory import machine
from training.memory.machine import Budget, measure_budget
from training.memory.micro_batch import micro_batch_memory
from training.memory.model_shape import ModelShape, read_shape
from training.memory.plan import Plan, RowCounts, count_rows, draft_plan, plan_stage_two
from training.recipe import ClustersSection, LoraSection, SplitSection
from training.rows.split import split_rows
from training.stages.processes import World

GB = 10**9
ROWS = RowCounts(total=12_000, train=11_400, probe=600, longest=512, longest_completion=256)


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> ModelShape:
    """A tenth of SmolLM2-135M: 3 of its 30 layers."""
    config = json.loads((ROOT / "recipes" / "shapes" / "smollm2-135m" / "config.json").read_text())
    folder = tmp_path_factory.mktemp("smol")
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    return read_shape(str(folder), LoraSection(rank=32))


def planned(shape: ModelShape, memory: float, disk: float = 0, processes: int = 1, **choices: Any) -> Plan:
    """Plan with budgets in GB."""
    section = ClustersSection(**({"k": 7} | choices))
    return plan_stage_two(shape, section, ROWS, Budget(int(memory * GB), int(disk * GB), processes))


def test_the_figures_are_the_designs(smol: ModelShape) -> None:
    made = planned(smol, memory=1000, disk=1000)
    row = 4 * 976_896
    assert made.gradient_bytes == row
    assert made.centroids_bytes == 7 * row
    assert made.exact_cache_bytes == 7 * 8 * 16 * row + 7 * 2 * row  # alpha |B| rows and the sums in float64
    assert made.ring_cache_bytes == 7 * (8 + 1) * row  # alpha sums, and that of the closed ones
    assert made.window_bytes == 4 * 16 * row
    assert made.probe_bytes == 600 * row
    assert 0 < made.disk_bytes - 12_000 * row < 12_000 * 100
    assert made.checkpoint_bytes == 2 * 7 * row + made.exact_cache_bytes + 16 * 11_400
    assert made.traffic_bytes == 0
    assert set(made.summary()) >= {"peak_bytes", "passes", "phases", "cache_reason"}
    json.dumps(made.summary())


def test_the_cache_is_exact_while_it_fits(smol: ModelShape) -> None:
    roomy = planned(smol, memory=10)
    assert (roomy.cache, roomy.peak_bytes <= 10 * GB) == ("exact", True)
    tight = planned(smol, memory=2)
    assert (tight.cache, tight.peak_bytes <= 2 * GB) == ("ring", True)
    assert "would need" in tight.cache_reason
    assert planned(smol, memory=10, cache="ring").cache == "ring"


def test_gradients_go_to_disk_while_they_fit(smol: ModelShape) -> None:
    assert planned(smol, memory=10, disk=50).gradients == "disk"
    assert planned(smol, memory=10, disk=46).gradients == "recompute"
    assert planned(smol, memory=10, disk=50, gradients="recompute").gradients == "recompute"


def test_passes_over_the_rows(smol: ModelShape) -> None:
    assert planned(smol, memory=10, disk=50).passes == 1
    again = planned(smol, memory=10, max_epochs=3)
    assert again.computed_rows == 600 + 3 * 11_400 + 12_000  # the probe, every epoch, the assignment


@pytest.mark.parametrize("memory", [10, 2.4, 1.7])
def test_probe_rows_are_counted_as_the_gram_matrix_fetches_them(smol: ModelShape, memory: float) -> None:
    made = planned(smol, memory=memory)
    assert made.peak_bytes <= memory * GB
    assert (made.probe_block_rows == 600) == (memory == 10)
    source = PlantedSource(torch.zeros(600, 1))
    fetched = ProbeGradients(source, range(600), made.probe_block_rows, World()).computed_rows
    assert made.computed_rows == fetched + 5 * 11_400 + 12_000


def test_look_ahead_is_a_tenth_of_the_budget_and_at_most_four_batches_a_process(smol: ModelShape) -> None:
    assert planned(smol, memory=1000).look_ahead_batches == 4
    assert planned(smol, memory=1000, processes=8).look_ahead_batches == 32
    made = planned(smol, memory=1.8, cache="ring")
    assert made.look_ahead_batches == 2  # 62.5 MB each
    assert made.window_bytes == 2 * 16 * made.gradient_bytes


def test_several_processes_share_rows_but_not_sums(smol: ModelShape) -> None:
    one, eight = planned(smol, memory=1000), planned(smol, memory=1000, processes=8)
    row = one.gradient_bytes
    assert eight.exact_cache_bytes == 7 * 8 * 16 * row // 8 + 7 * 2 * row
    assert eight.ring_cache_bytes == one.ring_cache_bytes
    assert eight.window_bytes == one.window_bytes  # eight times as many batches, shared by eight
    # Every process sends each touched cluster's change twice (W - 1) / W times, in float64, and labels.
    assert eight.traffic_bytes == 2 * (7 * 2 * row + 8 * 16) * 7 // 8
    ring = planned(smol, memory=1000, processes=8, cache="ring")
    assert ring.traffic_bytes == 2 * (7 * row + 8 * 16) * 7 // 8


@pytest.mark.parametrize(
    ("choices", "memory", "says"),
    [
        (
            {},
            0.5,
            r"needs at least [\d.]+ [GM]B of memory \(its calibration phase.*memory budget is 500 MB.*memory-budget",
        ),
        ({"cache": "exact"}, 2, r"the exact cache, [\d.]+ GB.*take clusters\.cache=ring"),
        (
            {"gradients": "disk"},
            10,
            r"clusters\.gradients=disk: all rows' gradients take 46.9 GB.*--disk-budget",
        ),
        (
            {"k": 2, "cache_batches": 1, "micro_batch_tokens": 1 << 14},
            2,
            r"one micro-batch.*micro_batch_tokens",
        ),
    ],
)
def test_what_does_not_fit_names_figure_budget_and_option(
    smol: ModelShape, choices: dict[str, Any], memory: float, says: str
) -> None:
    with pytest.raises(TrainingError, match=says):
        planned(smol, memory, **choices)


def test_a_draft_has_its_figures_even_if_nothing_fits(smol: ModelShape) -> None:
    made = draft_plan(smol, ClustersSection(), ROWS, Budget(1, 1))
    assert made.dimension == 976_896
    assert made.shortfall


def test_warnings_name_what_will_be_slow(smol: ModelShape) -> None:
    hasty = planned(smol, memory=1000, checkpoint_seconds=1)
    assert any("checkpoint_seconds (1)" in warning for warning in hasty.warnings)
    assert any("more than the disk budget of 0 kB" in warning for warning in hasty.warnings)


@pytest.mark.parametrize("total", [600, 5_000, 12_000, 50_000])
def test_rows_are_counted_as_they_are_split(total: int) -> None:
    drawn, counted = split_rows(total, SplitSection(), 0), count_rows(total, SplitSection(), 512)
    assert (counted.train, counted.probe) == (len(drawn.train), len(drawn.probe))
    of_rows = RowCounts.of(dozen_rows(), replace(drawn, train=(0, 1), probe=(1,)))
    assert of_rows == RowCounts(12, 2, 1, longest=40, longest_completion=30)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(TrainingError, match="20 rows are too few"):
        count_rows(20, SplitSection(), 512)


def test_the_most_demanding_micro_batch_is_found(smol: ModelShape) -> None:
    """One row of 1,100 tokens fills half of the budget; two of 1,024 fill it."""
    found = micro_batch_memory(smol, 2048, 1100, 500, on_cpu=False)
    assert (found.rows, found.tokens) == (2, 1024)
    assert found.total == micro_batch_memory(smol, 2048, 1024, 500, on_cpu=False).total


def test_budgets_come_from_the_machine_if_none_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text("1000000000\n")
    monkeypatch.setattr(machine, "_CGROUPS", (tmp_path / "none", limit))
    budget = measure_budget(None, None, tmp_path / "not" / "there" / "yet")
    assert budget.memory_bytes == 600_000_000
    assert budget.disk_bytes > 0
    assert budget.resident_bytes > 50_000_000
    limit.write_text("max\n")
    assert measure_budget(None, None, tmp_path).memory_bytes > GB
    given = measure_budget(3 << 20, 0, tmp_path)
    assert (given.memory_bytes, given.disk_bytes) == (3 << 20, 0)


@pytest.mark.parametrize(
    ("rank", "tokens", "cache", "gradients"),
    [
        pytest.param(32, 2048, "exact", "recompute", marks=pytest.mark.slow),  # half a minute
        (8, 512, "ring", "disk"),
    ],
)
def test_predicted_and_measured_peak_agree(
    shared: Path, tmp_path: Path, rank: int, tokens: int, cache: str, gradients: str
) -> None:
    arguments = [str(shared / "models" / "base-5m"), str(rank), str(tokens), cache, gradients, "64", "256"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.stand_ins.stage_two_peak", *arguments, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.15), found
