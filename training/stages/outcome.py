"""What a finished stage left, read back from its folder: the typed outcomes that one stage hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from training.errors import TrainingError
from training.models.finetune import Tuned
from training.stages.store import StageResult


@dataclass(frozen=True)
class Outcome:
    """A stage's outcome. A subclass has a field for each fact that its stage wrote: none is looked up by a string."""

    stage: StageResult

    @classmethod
    def read(cls, stage: StageResult) -> Self:
        """Read back what the stage wrote.

        Raises:
            TrainingError: another version wrote it (only where a finished run is read back).

        """
        try:
            return cls._of(stage)
        except (TypeError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{stage.folder}: another version of this software left it. Start the run's `gradientspace train` "
                "again, which does anew what it has to."
            ) from error

    @classmethod
    def _of(cls, stage: StageResult) -> Self:
        return cls(stage, **stage.facts)

    @property
    def written(self) -> dict[str, Any]:
        """All facts as the stage wrote them: what the report shows of it."""
        return self.stage.facts

    @property
    def folder(self) -> Path:
        """Where the stage's files lie."""
        return self.stage.folder

    @property
    def digest(self) -> str:
        """Of all that the stage depended on."""
        return self.stage.digest


@dataclass(frozen=True)
class TrainedAdapter(Outcome):
    """An adapter that a stage trained; its folder is PEFT's."""

    tuned: Tuned

    @classmethod
    def _of(cls, stage: StageResult) -> Self:
        return cls(stage, Tuned(**stage.facts))
