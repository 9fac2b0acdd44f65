"""How fast are per-row gradients? `python -m benchmarks.gradients [--quick] [--json FILE]`.

(a) ours: every row's gradient, made a unit vector, compared with K centroids, put in the cache (calibration); or
contracted with the centroids and dropped (the final pass). (b) the loop of LESS and ELREA: one row, backward,
flatten. (c) the floor: a training step's forward and backward over the same micro-batches, without an optimiser.
(d) the machine's own rate of float32 matrix products. All of it in one run, window by window in turn, medians.
Then Stage II's peak memory by the number of rows, and what a second epoch costs with the gradients on disk.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from benchmarks.gradient_contenders import (
    Ours,
    Plain,
    needed_operations,
    padding_share,
    product_operations,
)
from benchmarks.gradient_shapes import Shape, adapted, rows_for, shapes
from benchmarks.stage_two_cost import peaks_by_rows, second_epoch_share
from training.gradients.row_gradients import RowGradients
from training.recipe import ClustersSection
from training.rows.rendering import TokenRow
from training.stages.provenance import git_commit

_GPU_TOKENS = 16384  # padded tokens per backward pass on a GPU; on a CPU the recipe's default
_PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}
_WINDOW_ROWS = {"cpu": 64, "cuda": 128}  # gradients computed ahead, at most
_ROUNDS = (2, 9)  # at least, at most, as seconds allow
_SECONDS = {True: 22.0, False: 150.0}  # per shape, when quick and when not
_QUICK_COUNTS, _FULL_COUNTS = (100, 300, 900), (500, 2000, 8000)

Figures = dict[str, Any]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer rows and rounds: two minutes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print one table of speeds, then memory and the second epoch."""
    transformers_logging.disable_progress_bar()
    console = Console()
    begin = time.perf_counter()
    measured = {shape.name: _measured(shape, _SECONDS[quick]) for shape in shapes(quick)}
    console.print(_table(measured))
    for name, found in measured.items():
        of = f"{found['rows']} rows of {found['mean_tokens']:.0f} tokens, " if "rows" in found else ""
        console.print(f"{name}: {of}{found['note']}", soft_wrap=True)
    counts = _QUICK_COUNTS if quick else _FULL_COUNTS
    tokens = 8 if quick else 24
    peaks = peaks_by_rows(counts, tokens)
    said = ", ".join(f"{count:,} rows {peak:,.0f} MB" for count, peak in peaks.items())
    memory_note = f"a small random Llama, rows of at most {tokens} tokens, ring cache, recomputed gradients"
    console.print(f"Peak memory of Stage II: {said} ({memory_note}).")
    second, second_note = _second_epoch(shapes(quick)[0], quick)
    shown = "not measured" if second is None else f"{second:.3f} of the first"
    console.print(f"A second epoch from the disk store: {shown} ({second_note}).")
    record = {
        "shapes": measured,
        "peak_mb_by_rows": peaks,
        "peak_mb_note": memory_note,
        "second_epoch_over_first": second,
        "second_epoch_note": second_note,
        "quick": quick,
        "seconds": time.perf_counter() - begin,
        "machine": _machine(),
    }
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def measure(shape: Shape, seconds: float) -> Figures:
    """Measure one shape: ratios are medians over windows and rounds of what was measured right after one another."""
    rows, said = rows_for(shape)
    budget = _GPU_TOKENS if shape.device.type == "cuda" else ClustersSection().micro_batch_tokens
    size = _WINDOW_ROWS[shape.device.type]
    windows = [list(range(start, min(start + size, len(rows)))) for start in range(0, len(rows), size)]
    plain = Plain(adapted(shape), budget)
    with RowGradients(adapted(shape), 0, budget) as source:
        times, operations = _times(shape, Ours(source, rows), plain, rows, windows, seconds)
        dimension = source.dimension
    rounds = len(times["step"]) // len(windows)
    needed = [needed_operations(plain.model, [rows[row] for row in window]) for window in windows] * rounds
    rate = median(operations / spent for spent in times["product"])
    reached = median(each / spent for each, spent in zip(needed, times["calibration"], strict=True))
    sizes = [len(window) for window in windows] * rounds
    return {
        "ours_over_step": _ratio(times["calibration"], times["step"]),
        "final_over_step": _ratio(times["final"], times["step"]),
        "loop_over_ours": _ratio(times["loop"], times["calibration"]),
        "loop_over_final": _ratio(times["loop"], times["final"]),
        "rows_per_s": median(n / spent for n, spent in zip(sizes, times["calibration"], strict=True)),
        "rows_per_s_final": median(n / spent for n, spent in zip(sizes, times["final"], strict=True)),
        "gflop_per_s": reached / 1e9,
        "machine_gflop_per_s": rate / 1e9,
        "share_of_machine": reached / rate,
        "dimension": dimension,
        "rows": len(rows),
        "mean_tokens": sum(len(row.input_ids) for row in rows) / len(rows),
        "padding_share": padding_share(rows, windows, budget),
        "micro_batch_tokens": budget,
        "rounds": rounds,
        "note": said,
    }


def _times(
    shape: Shape,
    ours: Ours,
    plain: Plain,
    rows: Sequence[TokenRow],
    windows: Sequence[list[int]],
    seconds: float,
) -> tuple[dict[str, list[float]], float]:
    on_gpu = shape.device.type == "cuda"
    left, right, operations = product_operations(shape.device, _PRODUCT_SIZE[shape.device.type])

    def work(window: list[int]) -> dict[str, Callable[[], Any]]:
        picked = [rows[row] for row in window]
        return {
            "calibration": lambda: ours.calibrate(window),
            "step": lambda: plain.step(picked),
            "final": lambda: ours.assign(window),
            "loop": lambda: plain.loop(picked),
            "product": lambda: left @ right,
        }

    shortest = min(range(len(rows)), key=lambda row: len(rows[row].input_ids))
    for run in work([shortest]).values():
        run()  # what the first call of all costs is nobody's
    times: dict[str, list[float]] = {name: [] for name in work([shortest])}
    end = time.perf_counter() + seconds
    for turn in range(_ROUNDS[1]):
        if turn >= _ROUNDS[0] and time.perf_counter() > end:
            break
        for window in windows:
            for name, run in work(window).items():
                times[name].append(_timed(run, on_gpu))
    return times, operations


def _measured(shape: Shape, seconds: float) -> Figures:
    if shape.missing:
        empty = ("ours_over_step", "final_over_step", "loop_over_ours", "loop_over_final", "rows_per_s")
        return dict.fromkeys((*empty, "share_of_machine"), None) | {"note": shape.missing}
    return measure(shape, seconds)


def _timed(run: Callable[[], Any], on_gpu: bool) -> float:
    if on_gpu:
        torch.cuda.synchronize()
    begin = time.perf_counter()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def _ratio(over: list[float], under: list[float]) -> float:
    return median(one / other for one, other in zip(over, under, strict=True))


def _second_epoch(shape: Shape, quick: bool) -> tuple[float | None, str]:
    if shape.missing:
        return None, shape.missing
    rows = rows_for(shape)[0]
    note = f"{shape.name}, {len(rows)} {'real ' if shape.real_rows else ''}rows, exact cache"
    return second_epoch_share(shape, rows), note


def _table(measured: dict[str, Figures]) -> Table:
    table = Table(
        title="Per-row gradients: (a) ours, (b) loop, (c) training step, (d) matrix products",
        box=None,
        padding=(0, 1, 0, 0),
    )
    table.add_column("shape", no_wrap=True)
    for heading in ("d", "a/c", "final", "b/a", "final", "rows/s", "GFLOP/s", "a/d", "pad"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in measured.items():
        if found["ours_over_step"] is None:
            table.add_row(name, *["-"] * 9)
            continue
        table.add_row(
            name,
            f"{found['dimension']:,}",
            f"{found['ours_over_step']:.2f}",
            f"{found['final_over_step']:.2f}",
            f"{found['loop_over_ours']:.2f}",
            f"{found['loop_over_final']:.2f}",
            f"{found['rows_per_s']:.2f}",
            f"{found['gflop_per_s']:.0f}/{found['machine_gflop_per_s']:.0f}",
            f"{found['share_of_machine']:.0%}",
            f"{found['padding_share']:.1%}",
        )
    return table


def _machine() -> Figures:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    typer.run(main)
