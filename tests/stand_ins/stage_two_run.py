"""Stage II on a tiny model, for tests that kill it or share it, with a log of where it stood."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.progress import Advance, Narrator
from training.recipe import read_recipe
from training.run import Run
from training.stages.inputs import read_inputs
from training.stages.processes import join_world
from training.stages.store import StageStore


@dataclass(frozen=True)
class Step:
    """One line of a log: which bar moved, and how many rows are done of how many."""

    stage: str
    done: int
    total: int

    @property
    def left(self) -> int:
        """Rows to be done: unlike those done, the same whether a bar began anew or goes on."""
        return self.total - self.done


class LoggedNarrator(Narrator):
    """Writes down where which bar stood; is held up at every step, or killed when one stage has few rows left."""

    def __init__(self, log: Path, seconds_per_call: float, killed_at: Step | None) -> None:
        super().__init__()
        self.log = log
        self.seconds_per_call = seconds_per_call
        self.killed_at = killed_at
        self.stage = ""

    def title(self, text: str) -> None:
        self.stage = text

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, what: str, total: int, unit: str) -> Iterator[Advance]:
        done, stage = 0, f"{self.stage} {what}"
        with self.log.open("a", encoding="utf-8") as log:

            def advance(more: int, /) -> None:
                nonlocal done
                done += more
                log.write(json.dumps([stage, done, total]) + "\n")
                log.flush()
                killed = self.killed_at
                if killed and killed.stage == stage and total - done <= killed.left:
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(self.seconds_per_call)

            yield advance


def run_stage_two(
    given: dict[str, Any], log: Path, seconds_per_call: float = 0.0, killed_at: Step | None = None
) -> Run:
    """Run Stage II (and the warm-up, if that is not done)."""
    with join_world() as world:
        narrator = LoggedNarrator(log.with_name(f"{log.stem}.{world.rank}.log"), seconds_per_call, killed_at)
        recipe = read_recipe(None, given, [])
        assert recipe.output is not None
        inputs = read_inputs(recipe, narrator)
        store = StageStore(recipe.output / "stages", narrator, world)
        with Run(inputs, store) as run:
            _ = run.plan, run.assigned, run.orders
            run.remove_gradients()
            return run
