"""Who is told of the loss while an adapter trains: the names of `train.report_to`, which are Transformers' own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import (
    TensorBoardCallback,
    get_available_reporting_integrations,
    get_reporting_integration_callbacks,
)
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from training.errors import RecipeError

TENSORBOARD = "tensorboard"
# What each service's client is called on PyPI, where it is not called as here.
_PACKAGES = {
    TENSORBOARD: "tensorboardX",
    "azure_ml": "azureml-core",
    "comet_ml": "comet-ml",
    "flyte": "flytekit",
}


@dataclass(frozen=True)
class Reporting:
    """Where the curves of one adapter go: `folder` is its own, inside the run folder."""

    names: tuple[str, ...]
    folder: Path
    title: str


def reporters(asked: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """Return those that can be told, and a warning if TensorBoard, which is the default, can't.

    Raises:
        RecipeError: a name is none of Transformers', or its client is not installed.

    """
    if tuple(asked) == ("none",):
        return (), None
    there = get_available_reporting_integrations()
    if tuple(asked) == ("all",):
        return tuple(there), None
    for name in asked:
        if name not in INTEGRATION_TO_CALLBACK:
            raise RecipeError(
                f"Recipe, train.report_to: {name!r} is not one of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, "
                "all, none."
            )
        if name not in there and name != TENSORBOARD:
            raise RecipeError(
                f"Recipe, train.report_to: {name} is not installed. Install it (pip install "
                f"{_PACKAGES.get(name, name)}), or set train.report_to=none."
            )
    left_out = TENSORBOARD in asked and TENSORBOARD not in there
    return tuple(name for name in asked if name in there), (
        "no curves for TensorBoard: its writer is not installed (pip install tensorboardX). The report has them."
        if left_out
        else None
    )


@contextmanager
def reporting(to: Reporting | None) -> Iterator[list[TrainerCallback]]:
    """Give the callbacks that tell everyone; what they write goes below the run folder, and is closed at the end."""
    if to is None or not to.names:
        yield []
        return
    before = {name: os.environ.get(name) for name in ("WANDB_DIR", "MLFLOW_TRACKING_URI")}
    to.folder.mkdir(parents=True, exist_ok=True)
    # Said by the user, it holds; left open, both would write where the command happens to be started.
    os.environ.setdefault("WANDB_DIR", str(to.folder.parent))  # it asks once for all of its runs
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(to.folder.parent / 'mlflow.db').absolute()}")
    try:
        others = [name for name in to.names if name != TENSORBOARD]
        callbacks = [callback() for callback in get_reporting_integration_callbacks(others)]
        if TENSORBOARD in to.names:
            callbacks.append(TensorBoardCallback(_event_writer(to.folder)))
        yield callbacks
    finally:
        if "wandb" in to.names:
            import wandb

            wandb.finish()  # else the next adapter's curves would go on in this one's
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _event_writer(folder: Path) -> Any:
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()  # of a training that was stopped and begins again
    return TensorBoardCallback()._SummaryWriter(str(folder))  # TensorBoard's own, or tensorboardX's
