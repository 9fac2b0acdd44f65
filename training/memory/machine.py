"""What Stage II may take of this machine: memory, disk, processes."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from training.models.base_model import device
from training.stages.store import give_back_memory

_MEMORY_SHARE = 0.6  # of the device's memory, if no budget is given: others live here too
_DISK_SHARE = 0.5  # of what is free
_STATUS = Path("/proc/self/status")
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Budget:
    """What Stage II may take: memory in each process, disk for all of them."""

    memory_bytes: int
    disk_bytes: int
    processes: int = 1
    resident_bytes: int = 0
    """What each process holds already."""
    on_cpu: bool = True


def measure_budget(
    memory_budget: int | None, disk_budget: int | None, run: Path, processes: int = 1
) -> Budget:
    """Measure what this process and this machine leave for a run; the recipe's budgets, in bytes, come first.

    Without a budget, memory is 60 % of the accelerator's memory, or of the RAM or the control group's (container's)
    limit if there is no accelerator; disk is half of what is free where the run folder lies.
    """
    return Budget(
        memory_bytes=_memory_share() if memory_budget is None else memory_budget,
        disk_bytes=_disk_share(run) if disk_budget is None else disk_budget,
        processes=processes,
        resident_bytes=_process_bytes(),
        on_cpu=device().type == "cpu",
    )


def _memory_share() -> int:
    if device().type == "cuda":
        return int(_MEMORY_SHARE * torch.cuda.get_device_properties(0).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(_MEMORY_SHARE * min([total, *_cgroup_limits()]))


def _disk_share(run: Path) -> int:
    place = run.absolute()
    while not place.exists():
        place = place.parent
    return int(_DISK_SHARE * shutil.disk_usage(place).free)


def _process_bytes() -> int:
    if device().type == "cuda":
        free, total = torch.cuda.mem_get_info()
        return total - free
    give_back_memory()
    try:
        status = _STATUS.read_text(encoding="utf-8")
    except OSError:
        return 0
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


def _cgroup_limits() -> list[int]:
    limits = []
    for path in _CGROUPS:
        try:
            limits.append(int(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # there is none, or it says "max"
    return limits
