"""Stage II under torchrun, `-m tests.stand_ins.two_processes VALUES LOG [RANK BATCHES]`; that rank is lost after these.

Each process writes down which places of every logical batch were its own.
"""

from __future__ import annotations

import json
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

    def watched(self: Centroids, unit: Any, places: Sequence[int], batch_rows: int) -> Any:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps([batch_rows, *places]) + "\n")
        taken[0] += 1
        if taken[0] > lost_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, unit, places, batch_rows)

    Centroids.step = watched  # type: ignore[method-assign]


def main() -> None:
    values, log = json.loads(sys.argv[1]), Path(sys.argv[2])
    rank = int(os.environ["RANK"])
    lost = len(sys.argv) > 3 and int(sys.argv[3]) == rank
    _watch(log.with_name(f"{log.stem}.{rank}.batches"), float(sys.argv[4]) if lost else float("inf"))
    try:
        run_stage_two(values, log)
    except TrainingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
