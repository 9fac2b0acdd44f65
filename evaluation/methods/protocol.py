"""What a method is to the comparison."""

from __future__ import annotations

from typing import Literal, Protocol

from evaluation.seed.partition import Fitted
from evaluation.seed.seed_run import SeedRun

Tuning = Literal["adapters", "all weights", "none"]


class Method(Protocol):
    """Makes models of the training rows, and says which of them answers which row."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in files."""
        ...

    @property
    def title(self) -> str:
        """What it is called in the table."""
        ...

    @property
    def tuning(self) -> Tuning:
        """Which learning rates it is tried with."""
        ...

    def fit(self, run: SeedRun, learning_rate: float) -> Fitted:
        """Train it; the work that methods share comes from `run`.

        Raises:
            TrainingError: it can't be trained on these rows.

        """
        ...
