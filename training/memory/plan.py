"""What Stage II will hold, write and send, before anything is loaded; which cache and which source it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from training.errors import TrainingError
from training.memory.machine import Budget
from training.memory.micro_batch import micro_batch_memory
from training.memory.model_shape import ModelShape
from training.memory.sizes import gigabytes
from training.memory.stage_two import MemoryNeed
from training.recipe import ClustersSection, SplitSection
from training.rows.rendering import TokenRow
from training.rows.split import Split

# Logical batches per process: 64 rows by default, the most that a kill can cost beside the cadence.
_MOST_LOOK_AHEAD = 4
_LOOK_AHEAD_SHARE = 10  # of the memory budget, its tenth part
_JOURNAL_BYTES = 80  # of one row on disk: its number, norm, share of B and checksum
_SLOW_DISK = 1_000_000_000  # bytes per second that a checkpoint is warned by


@dataclass(frozen=True)
class RowCounts:
    """How many rows play which part, and how long the longest are, in tokens."""

    total: int
    train: int
    probe: int
    longest: int
    longest_completion: int

    @classmethod
    def of(cls, rows: Sequence[TokenRow], split: Split) -> RowCounts:
        """Count a run's rows."""
        return cls(
            total=len(rows),
            train=len(split.train),
            probe=len(split.probe),
            longest=max(len(row.input_ids) for row in rows),
            longest_completion=max(row.trained_tokens for row in rows),
        )


@dataclass(frozen=True)
class Plan:
    """What Stage II takes. All sizes are bytes, of one process; they count the process itself in `peak_bytes`."""

    model: str
    dimension: int
    k: int
    processes: int
    rows: int
    cache: str
    cache_reason: str
    gradients: str
    gradients_reason: str
    probe_block_rows: int
    look_ahead_batches: int
    weights_bytes: int
    gradient_bytes: int
    centroids_bytes: int
    exact_cache_bytes: int
    ring_cache_bytes: int
    window_bytes: int
    micro_batch_bytes: int
    probe_bytes: int
    checkpoint_bytes: int
    disk_bytes: int
    """Of all processes' gradients together, if they are kept on disk."""
    traffic_bytes: int
    """Sent by each process for one logical batch."""
    computed_rows: int
    """Row gradients computed at most, by all processes together."""
    phases: dict[str, int]
    memory_budget_bytes: int
    disk_budget_bytes: int
    shortfall: str | None
    """What does not fit, and what to change."""
    warnings: tuple[str, ...]
    finetuning: dict[str, dict[str, Any]] = field(default_factory=dict)
    """How an optimiser step fits, by its rows: the fields of `training.memory.finetuning.StepFit`."""
    trial: dict[str, Any] | None = None
    """What a trial on this machine measured: the fields of `training.memory.trial.Trial`."""
    no_trial: str | None = None
    """Why there was none."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Estimated from the trial, by stage."""

    @property
    def passes(self) -> float:
        """How often every row's gradient is computed, at most."""
        return self.computed_rows / self.rows

    @property
    def peak_bytes(self) -> int:
        """The most that Stage II holds at once."""
        return max(self.phases.values())

    def summary(self) -> dict[str, Any]:
        """Return every figure, for the report."""
        return asdict(self) | {
            "warnings": list(self.warnings),
            "passes": self.passes,
            "peak_bytes": self.peak_bytes,
        }


def count_rows(total: int, split: SplitSection, longest: int) -> RowCounts:
    """Count the parts that `training.rows.split.split_rows` draws, of rows of at most `longest` tokens."""
    train = total - max(split.validation_at_least, round(split.validation * total))
    probe = min(split.probe_at_most, max(split.probe_at_least, round(split.probe * train)))
    if probe + max(1, round(split.warmup * train)) > train:
        raise TrainingError(
            f"{total} rows are too few for the recipe's split: {max(0, train)} remain to train on. Give more rows, or "
            "lower split.validation_at_least and split.probe_at_least."
        )
    return RowCounts(total, train, probe, longest, longest - 1)


def plan_stage_two(shape: ModelShape, section: ClustersSection, rows: RowCounts, budget: Budget) -> Plan:
    """Decide how Stage II runs in the room that it has. K is not known before the probe: the largest is taken.

    Raises:
        TrainingError: something that has to be held does not fit, whatever is chosen.

    """
    made = draft_plan(shape, section, rows, budget)
    if made.shortfall:
        raise TrainingError(made.shortfall)
    return made


def draft_plan(shape: ModelShape, section: ClustersSection, rows: RowCounts, budget: Budget) -> Plan:
    """As `plan_stage_two`, but what does not fit is said in `shortfall`."""
    k = section.k or section.k_max
    micro_batch = micro_batch_memory(
        shape, section.micro_batch_tokens, rows.longest, rows.longest_completion, budget.on_cpu
    )
    need = MemoryNeed(
        shape,
        micro_batch,
        section,
        rows.total,
        rows.train,
        rows.probe,
        k,
        budget.processes,
        budget.resident_bytes,
    )
    stored = rows.total * (need.gradient + _JOURNAL_BYTES)
    gradients, gradients_reason, no_disk = _choose_gradients(section, stored, budget.disk_bytes)
    cache, cache_reason, no_memory = _choose_cache(section, need, gradients, budget.memory_bytes)
    look_ahead = _look_ahead(need, cache, gradients, budget.memory_bytes)
    block = _block_rows(need, cache, gradients, look_ahead, budget.memory_bytes)
    computed = rows.total
    if gradients == "recompute":
        computed += _probe_rows(rows.probe, block, budget.processes) + section.max_epochs * rows.train
    checkpoint = 2 * k * need.gradient + need.cache(cache) + 16 * rows.train
    sent = need.touched * need.gradient * (2 if cache == "exact" else 1) + 8 * section.batch_rows
    return Plan(
        model=shape.name,
        dimension=shape.dimension,
        k=k,
        processes=budget.processes,
        rows=rows.total,
        cache=cache,
        cache_reason=cache_reason,
        gradients=gradients,
        gradients_reason=gradients_reason,
        probe_block_rows=block,
        look_ahead_batches=look_ahead,
        weights_bytes=4 * shape.weights,
        gradient_bytes=need.gradient,
        centroids_bytes=k * need.gradient,
        exact_cache_bytes=need.cache("exact"),
        ring_cache_bytes=need.cache("ring"),
        window_bytes=need.window(look_ahead),
        micro_batch_bytes=micro_batch.total,
        probe_bytes=need.probe_blocks(block),
        checkpoint_bytes=checkpoint,
        disk_bytes=stored,
        traffic_bytes=2 * sent * (budget.processes - 1) // budget.processes,
        computed_rows=computed,
        phases=need.phases(cache, gradients, look_ahead, block),
        memory_budget_bytes=budget.memory_bytes,
        disk_budget_bytes=budget.disk_bytes,
        shortfall=no_disk or no_memory,
        warnings=tuple(_warnings(section, need, checkpoint, budget.disk_bytes)),
    )


def _choose_gradients(section: ClustersSection, stored: int, disk_bytes: int) -> tuple[str, str, str | None]:
    """Return the source of gradients, why, and what is missing for it."""
    figures = f"take {gigabytes(stored)}, the disk budget is {gigabytes(disk_bytes)}"
    fits = stored <= disk_bytes
    if section.gradients == "auto":
        return "disk" if fits else "recompute", f"all rows' gradients {figures}", None
    shortfall = (
        f"clusters.gradients=disk: all rows' gradients {figures}. Raise --disk-budget, or "
        "set clusters.gradients=recompute."
    )
    missing = section.gradients == "disk" and not fits
    return section.gradients, "clusters.gradients says so", shortfall if missing else None


def _choose_cache(
    section: ClustersSection, need: MemoryNeed, gradients: str, budget: int
) -> tuple[str, str, str | None]:
    """Return the cache, why, and what is missing for it."""
    least = {kind: max(need.phases(kind, gradients, 1, 1).values()) for kind in ("exact", "ring")}
    if section.cache != "auto":
        cache, reason = section.cache, "clusters.cache says so"
    elif least["exact"] <= budget:
        cache, reason = "exact", f"with it Stage II fits the memory budget of {gigabytes(budget)}"
    else:
        cache, reason = (
            "ring",
            (
                f"with the exact cache Stage II would need {gigabytes(least['exact'])}, the memory budget is "
                f"{gigabytes(budget)}"
            ),
        )
    return cache, reason, _too_small(need, cache, gradients, budget) if least[cache] > budget else None


def _too_small(need: MemoryNeed, cache: str, gradients: str, budget: int) -> str:
    phases = need.phases(cache, gradients, 1, 1)
    phase = max(phases, key=lambda name: phases[name])
    terms = {
        "the model in float32": (need.model, "a smaller base model"),
        "one micro-batch": (
            need.micro_batch.total,
            "a smaller clusters.micro_batch_tokens or data.max_length",
        ),
        f"the {cache} cache": (
            need.cache(cache),
            "clusters.cache=ring" if cache == "exact" else "a smaller clusters.cache_batches or lora.rank",
        ),
        f"{need.k} centroids": (need.k * need.gradient, "a smaller clusters.k_max or lora.rank"),
    }
    largest = max(terms, key=lambda name: terms[name][0])
    size, instead = terms[largest]
    return (
        f"Stage II needs at least {gigabytes(phases[phase])} of memory (its {phase} phase; the most of it is "
        f"{largest}, {gigabytes(size)}), and the memory budget is {gigabytes(budget)}. Raise --memory-budget "
        f"(memory_budget), or take {instead}."
    )


def _look_ahead(need: MemoryNeed, cache: str, gradients: str, budget: int) -> int:
    for batches in range(_MOST_LOOK_AHEAD * need.processes, 1, -1):
        fits = max(need.phases(cache, gradients, batches, 1).values()) <= budget
        if fits and need.window(batches) <= budget // _LOOK_AHEAD_SHARE:
            return batches
    return 1


def _block_rows(need: MemoryNeed, cache: str, gradients: str, look_ahead: int, budget: int) -> int:
    def fits(rows: int) -> bool:
        return need.phases(cache, gradients, look_ahead, rows)["probe"] <= budget

    if fits(need.probe):
        return need.probe
    low, high = 1, need.probe  # low fits: the cache was chosen so
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _probe_rows(probe: int, block: int, processes: int) -> int:
    """Rows that `training.clusters.gram.ProbeGradients` computes, in all processes together."""
    computed = 0
    for rank in range(processes):
        mine = len(range(rank, probe, processes))
        sizes = [min(block, mine - start) for start in range(0, mine, block)]
        computed += mine if len(sizes) <= 1 else mine + sum(sum(sizes[i:]) for i in range(len(sizes)))
    return computed


def _warnings(section: ClustersSection, need: MemoryNeed, checkpoint: int, disk_bytes: int) -> list[str]:
    found = []
    if checkpoint > _SLOW_DISK * section.checkpoint_seconds:
        found.append(
            f"each process writes checkpoints of {gigabytes(checkpoint)}: at 1 GB/s that takes longer than "
            f"clusters.checkpoint_seconds ({section.checkpoint_seconds:g}). Raise it."
        )
    if 2 * checkpoint * need.processes > disk_bytes:
        found.append(
            f"two checkpoints of {need.processes} process{'es' if need.processes > 1 else ''} "
            f"({gigabytes(2 * checkpoint * need.processes)}) are more than the disk budget of {gigabytes(disk_bytes)}."
        )
    return found
