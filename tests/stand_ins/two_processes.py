"""Stage II as one of several processes, each of which writes down which places of every logical batch were its own.

Under torchrun: `-m tests.stand_ins.two_processes VALUES LOG [RANK BATCHES]`; that rank is lost after these.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.stand_ins.stage_two_run import run_stage_two
from training.clusters.centroids import Centroids
from training.errors import TrainingError


def _watch(log: Path, lost_after: float) -> None:
    step, taken = Centroids.step, [0]

    def watched(self: Centroids, unit: Any, places: Sequence[int], batch_rows: int, drawn: Any) -> Any:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([batch_rows, *places]) + "\n")
        taken[0] += 1
        if taken[0] > lost_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, unit, places, batch_rows, drawn)

    Centroids.step = watched  # type: ignore[method-assign]


def run_watched(
    values: dict[str, Any], log: Path, lost_rank: int | None = None, after: float = math.inf
) -> None:
    """Run Stage II as one of the processes; the lost one is killed after so many batches."""
    rank = int(os.environ["RANK"])
    _watch(log.with_name(f"{log.stem}.{rank}.batches"), after if rank == lost_rank else math.inf)
    try:
        run_stage_two(values, log)
    except TrainingError as error:
        sys.exit(str(error))


def main() -> None:
    """Take the arguments of `run_watched` from the command line."""
    values, log, *lost = sys.argv[1:]
    run_watched(json.loads(values), Path(log), *(int(number) for number in lost))


if __name__ == "__main__":
    main()
