"""The benchmark of gradients on a tiny model: it compares like with like, and writes what it says it writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gradients as benchmark
from benchmarks.gradient_contenders import Ours, Plain, needed_operations, padding_share
from benchmarks.gradient_shapes import Shape, adapted, random_row, rows_for
from benchmarks.stage_two_cost import peaks_by_rows, small_shape
from training.gradients.row_gradients import RowGradients, micro_batches

BUDGET = 64
ROWS = [random_row(number, 3 + number % 5, 2 + number % 7) for number in range(12)]
MISSING = Shape("nowhere", torch.device("cuda"), 1, lambda: pytest.fail("built"), False, "no GPU here")


def test_the_loop_finds_what_ours_finds() -> None:
    shape = small_shape()
    looped = torch.stack(Plain(adapted(shape), BUDGET).loop(ROWS))
    with RowGradients(adapted(shape), 0, BUDGET) as source:
        ours = source.whole(ROWS)
    assert looped.shape == ours.shape
    # The loop lays the weights out as PEFT lists them, and so do we.
    assert float((looped - ours).norm() / looped.norm()) < 1e-4


def test_the_floor_visits_the_same_micro_batches() -> None:
    plain = Plain(adapted(small_shape()), BUDGET)
    assert plain.step(ROWS) == len(micro_batches([len(row.input_ids) for row in ROWS], BUDGET)) > 1


def test_ours_moves_its_centroids() -> None:
    with RowGradients(adapted(small_shape()), 0, BUDGET) as source:
        ours = Ours(source, ROWS)
        before = ours.centroids.now.clone()
        ours.calibrate(range(12))
        assert not torch.equal(ours.centroids.now, before)
        assert ours.assign(range(12)).shape == (12, 7)


def test_work_is_counted_without_padding() -> None:
    model = adapted(small_shape())
    assert needed_operations(model, ROWS) == pytest.approx(
        sum(needed_operations(model, [row]) for row in ROWS)
    )
    same = [random_row(0, 4, 4)] * 4
    assert padding_share(same, [range(4)], BUDGET) == 0
    assert 0 < padding_share(ROWS, [range(12)], 1 << 20) < 1


def test_rows_are_as_long_as_real_ones_or_say_that_they_are_not(tmp_path: Path) -> None:
    rows, said = rows_for(replace(small_shape(), rows=9), tmp_path)
    assert len(rows) == 9
    assert said.startswith("SYNTHETIC LENGTHS")


def test_memory_is_measured_in_a_process_of_its_own() -> None:
    peaks = peaks_by_rows((40,), 8)
    assert list(peaks) == [40]
    assert 100 < peaks[40] < 4000


def test_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = replace(small_shape(), name="tiny", rows=6)
    monkeypatch.setattr(benchmark, "shapes", lambda quick: [tiny, MISSING])
    monkeypatch.setattr(benchmark, "peaks_by_rows", lambda counts, tokens: dict.fromkeys(counts, 1.0))
    monkeypatch.setattr(benchmark, "_SECONDS", {True: 0.0, False: 0.0})
    monkeypatch.setattr(benchmark, "_PRODUCT_SIZE", {"cpu": 64})
    benchmark.main(quick=True, json_file=tmp_path / "figures.json")
    record = json.loads((tmp_path / "figures.json").read_text())
    assert record["shapes"].keys() == {"tiny", "nowhere"}
    for figure in ("ours_over_step", "loop_over_ours", "rows_per_s"):
        assert record["shapes"]["tiny"][figure] > 0
        assert record["shapes"]["nowhere"][figure] is None
    assert record["peak_mb_by_rows"] == {"100": 1.0, "300": 1.0, "900": 1.0}
    assert 0 < record["second_epoch_over_first"] < 10
    printed = capsys.readouterr().out
    assert "nowhere: no GPU here" in printed
    assert "tiny: 6 rows" in printed
