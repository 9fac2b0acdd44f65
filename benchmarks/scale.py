"""The tables of docs/plan.md and docs/measurements/scale.md, from the code that plans: `python -m benchmarks.scale`."""

from __future__ import annotations

from pathlib import Path

from training.memory.machine import Budget
from training.memory.micro_batch import micro_batch_memory
from training.memory.model_shape import ModelShape, read_shape
from training.memory.plan import Plan, RowCounts, draft_plan
from training.memory.sizes import gigabytes
from training.memory.stage_two import MemoryNeed
from training.recipe import ClustersSection, LoraSection

_SHAPES = Path(__file__).parents[1] / "recipes" / "shapes"
_NAMES = ("llama-2-7b", "llama-3.2-1b", "smollm2-135m")

ROWS, ROW_TOKENS = 10_000_000, 300  # assumed
PUBLISHED_TOKENS = 13_000  # per second and GPU at 6.9B, bfloat16, read off a published plot
FP32_FLOPS = 67e12  # an H100's, as its maker gives them
FP32_SHARE = 0.6  # of them that is reached; assumed
INSIDE, BETWEEN = 300e9, 40e9  # bytes per second that a GPU sends inside a host, and between hosts; assumed
GPU_BYTES = 76 * 10**9  # of 80 GB

_DEFAULTS = ClustersSection(cache="ring")
_CHANGED = ClustersSection(cache="ring", k_max=8, cache_batches=4, micro_batch_tokens=1024)


def shapes_table() -> str:
    """What the three public shapes take: rank 32, K = 7, |B| = 16, 12,000 rows, 600 of them the probe."""
    lines = [
        "| r = 32 | weights | d | one gradient | 12,000 rows | 600 probe rows | K = 7 centroids | exact cache, alpha 5 "
        "/ 10 | ring, alpha 10 | micro-batch, CPU / GPU |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in _NAMES:
        shape = read_shape(str(_SHAPES / name), LoraSection(rank=32))
        five, ten = (_need(shape, ClustersSection(k=7, cache_batches=alpha)) for alpha in (5, 10))
        on_cpu = micro_batch_memory(shape, 2048, 1024, 512, on_cpu=True)
        row = shape.gradient_bytes
        cells = (
            name,
            gigabytes(4 * shape.weights),
            f"{shape.dimension:,}",
            *(gigabytes(count * row) for count in (1, 12_000, 600, 7)),
            f"{gigabytes(five.cache('exact'))} / {gigabytes(ten.cache('exact'))}",
            gigabytes(ten.cache("ring")),
            f"{gigabytes(on_cpu.total)} / {gigabytes(ten.micro_batch.total)}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def scale_table() -> str:
    """Ten million rows on a 7B base: the defaults, and what was changed, on 8 and on 64 GPUs."""
    shape = read_shape(str(_SHAPES / "llama-2-7b"), LoraSection(rank=32))
    lines = [
        "| | defaults, 8 GPUs | defaults, 64 GPUs | changed, 8 GPUs | changed, 64 GPUs |",
        "|---|---|---|---|---|",
    ]
    runs = (
        (_DEFAULTS, 8),
        (_DEFAULTS, 64),
        (_CHANGED.model_copy(update={"batch_rows": 64}), 8),
        (_CHANGED.model_copy(update={"batch_rows": 512}), 64),
    )
    plans = [_ten_million(shape, section, gpus) for section, gpus in runs]
    figures = [_figures(plan, section) for plan, (section, _) in zip(plans, runs, strict=True)]
    for name in figures[0]:
        lines.append("| " + " | ".join([name, *(found[name] for found in figures)]) + " |")
    return "\n".join(lines)


def _ten_million(shape: ModelShape, section: ClustersSection, gpus: int) -> Plan:
    rows = RowCounts(ROWS, ROWS * 95 // 100, 1024, 1024, 512)
    return draft_plan(shape, section, rows, Budget(GPU_BYTES, 10**13, gpus, on_cpu=False))


def _figures(plan: Plan, section: ClustersSection) -> dict[str, str]:
    tokens = ROWS * ROW_TOKENS
    flops = 4 * (plan.weights_bytes / 4) * tokens  # forward, and backward through frozen weights
    pass_fp32 = flops / (FP32_FLOPS * FP32_SHARE * plan.processes) / 3600
    pass_fast = tokens / PUBLISHED_TOKENS / plan.processes / 3600
    batches = ROWS * 95 // 100 / section.batch_rows
    wire = batches * plan.traffic_bytes / (INSIDE if plan.processes <= 8 else BETWEEN) / 3600
    passes = section.max_epochs + 1
    return {
        "memory of a GPU": f"{gigabytes(plan.peak_bytes)} ({'too much' if plan.shortfall else 'fits'})",
        "one pass, float32": f"{pass_fp32:.1f} h",
        "one pass at the published rate": f"{pass_fast:.1f} h",
        "logical batches of an epoch": f"{batches:,.0f}",
        "sent by a GPU per batch": gigabytes(plan.traffic_bytes),
        "sending, per epoch": f"{wire:.1f} h",
        f"at most {passes} passes, float32": f"{(passes * pass_fp32 + section.max_epochs * wire) / 24:.1f} days",
        "gradients, if kept on disk": gigabytes(plan.disk_bytes),
        "one checkpoint, all GPUs": gigabytes(plan.checkpoint_bytes * plan.processes),
    }


def _need(shape: ModelShape, section: ClustersSection) -> MemoryNeed:
    micro_batch = micro_batch_memory(shape, 2048, 1024, 512, on_cpu=False)
    return MemoryNeed(shape, micro_batch, section, 12_000, 11_400, 600, 7, 1, 0)


def main() -> None:
    """Print both tables."""
    print(shapes_table(), scale_table(), sep="\n\n")


if __name__ == "__main__":
    main()
