"""A finished training run, read back: its recipe, its rows, and what its stages left."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from evaluation.errors import EvidenceError
from training.clusters.assignment import Assignment
from training.progress import Narrator
from training.recipe import Recipe
from training.stage_two import read_assignment
from training.stages.inputs import Inputs, read_inputs
from training.stages.store import StageResult


@dataclass(frozen=True)
class FinishedRun:
    """The folder that was a training's --output."""

    folder: Path
    inputs: Inputs

    def stage(self, name: str) -> StageResult:
        """Return what a stage left.

        Raises:
            EvidenceError: it is not there, or not whole.

        """
        place = self.folder / "stages" / name
        try:
            record = json.loads((place / "stage.json").read_text(encoding="utf-8"))
            return StageResult(
                place,
                record["digest"],
                record["facts"],
                record["seconds"],
                record["peak_memory_mb"],
                kept=True,
            )
        except (OSError, ValueError, KeyError) as error:
            raise EvidenceError(
                f"{self.folder}: its stage {name!r} is not there, so the run is not finished. Start its "
                "`gradientspace train` again; it goes on where it was."
            ) from error

    def assignment(self) -> Assignment:
        """Return where every row went.

        Raises:
            EvidenceError: the stage is not there, or the rows are others now.

        """
        found = read_assignment(self.stage("assignment"))
        if len(found.labels) != len(self.inputs.rows):
            raise EvidenceError(
                f"{self.folder}: it was trained on {len(found.labels)} rows, and its files hold "
                f"{len(self.inputs.rows)} now. Put the rows back, or train again."
            )
        return found


def read_run(folder: Path, narrator: Narrator) -> FinishedRun:
    """Read a run's recipe, and the base, rows and encoder that it names.

    Raises:
        TrainingError: there is no run of this version, or what it names is gone.

    """
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        recipe = Recipe.model_validate(record["recipe"])
    except OSError as error:
        raise EvidenceError(
            f"{folder}: its run.json can't be read ({error.strerror}). Give the folder that was a training's --output."
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise EvidenceError(
            f"{folder}: its run.json holds no recipe of this version. Train it again."
        ) from error
    return FinishedRun(folder, read_inputs(recipe, narrator))
