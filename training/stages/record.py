"""run.json: the recipe that a run was started with, and what it ran on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError

from training.errors import RecipeError
from training.recipe import Recipe
from training.stages.processes import World
from training.stages.provenance import git_commit, package_versions

_FILE = "run.json"


def write_record(run: Path, recipe: Recipe, world: World) -> None:
    """Write the record into the run's folder."""
    record = {
        "recipe": recipe.model_dump(mode="json"),
        "git_commit": git_commit(),
        "versions": package_versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }
    (run / _FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def recorded_recipe(run: Path) -> Recipe:
    """Read the recipe that a run folder was made with.

    Raises:
        RecipeError: there is none that this version can read.

    """
    try:
        return Recipe.model_validate(json.loads((run / _FILE).read_text(encoding="utf-8"))["recipe"])
    except OSError as error:
        raise RecipeError(
            f"{run}: its run.json can't be read ({error.strerror}). Give the folder that was a training's --output."
        ) from error
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise RecipeError(f"{run}: its run.json holds no recipe of this version. Train it again.") from error
