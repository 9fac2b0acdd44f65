"""Stage II on a tiny model, for tests that kill it or share it: a warm-up is there, the rest is to be done.

As a script, `python -m tests.stand_ins.stage_two_run` imports everything once and then forks a process per line of
standard input, {"given": recipe values, "log": file}: seconds of imports are not spent again for each kill.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.progress import Advance, Narrator
from training.recipe import read_recipe
from training.run import Run
from training.stages.inputs import read_inputs
from training.stages.processes import join_world
from training.stages.store import StageStore


class LoggedNarrator(Narrator):
    """Writes down when which bar stood where."""

    def __init__(self, log: Path, seconds_per_call: float) -> None:
        super().__init__()
        self.log = log
        self.seconds_per_call = seconds_per_call
        self.stage = ""

    def title(self, text: str) -> None:
        self.stage = text

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        done = 0
        with self.log.open("a", encoding="utf-8") as log:

            def advance(more: int, /) -> None:
                nonlocal done
                done += more
                log.write(json.dumps([time.monotonic(), f"{self.stage} {what}", done, total]) + "\n")
                log.flush()
                time.sleep(self.seconds_per_call)

            yield advance


def run_stage_two(given: dict[str, Any], log: Path, seconds_per_call: float = 0.0) -> Run:
    """Run Stage II (and the warm-up, if that is not done)."""
    with join_world() as world:
        narrator = LoggedNarrator(log.with_name(f"{log.stem}.{world.rank}.log"), seconds_per_call)
        recipe = read_recipe(None, given, [])
        assert recipe.output is not None
        inputs = read_inputs(recipe, narrator)
        store = StageStore(recipe.output / "stages", narrator, world)
        with Run(inputs, store) as run:
            _ = run.plan, run.assigned, run.orders
            run.remove_gradients()
            return run


def _serve() -> None:
    import torch

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            run_stage_two(order["given"], Path(order["log"]), order["seconds_per_call"])
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
