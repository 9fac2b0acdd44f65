"""What a finished stage left, read back from its folder: the typed outcomes that one stage hands to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

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
            TypeError: the facts are those of another stage or version.

        """
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
    def read(cls, stage: StageResult) -> Self:
        """As every outcome, the facts together being the fine-tuning's."""
        return cls(stage, Tuned(**stage.facts))
