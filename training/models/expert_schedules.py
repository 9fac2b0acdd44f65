"""How long one adapter on all rows is trained, and then the experts and one LoRA beside them (section 5.4.1).

Their budget is `experts.epochs`. By `experts.shared` the first part of it is a fixed share, or lasts until the
validation loss stops falling: then the rate stays constant, so that any step may be the last, and its fall to zero
comes after the split, for the experts and for one LoRA alike.
"""

from __future__ import annotations

from training.models.finetune import Schedule
from training.recipe_stage_three import ExpertsSection

SHARED_AT_MOST = 0.75
"""Ours: of the budget, while the loss still falls. The best of the fixed shares (docs/measurements/table-one.md)."""


def shared_at_most(section: ExpertsSection) -> float:
    """Return the part of the budget that the shared adapter has, or has at most."""
    return section.shared if isinstance(section.shared, float | int) else SHARED_AT_MOST


def shared_schedule(section: ExpertsSection, learning_rate: float) -> Schedule:
    """Return the shared adapter's schedule; its epochs are 0 where nothing but the warm-up is shared."""
    epochs = shared_at_most(section) * section.epochs
    if section.shared != "until_it_stops":
        return Schedule(epochs, learning_rate, section.batch_rows)
    return Schedule(
        epochs, learning_rate, section.batch_rows, rate="constant", keep="best", patience=section.patience
    )


def schedule_after_it(
    section: ExpertsSection, learning_rate: float, rows: int, shared_visits: int
) -> Schedule:
    """Return the schedule of the experts and of one LoRA: what of the budget the shared adapter left.

    It visited `rows` training rows `shared_visits` times in all. What a falling rate gives comes at its end, so these
    run through and keep their best.
    """
    if isinstance(section.shared, float | int):
        return Schedule((1 - section.shared) * section.epochs, learning_rate, section.batch_rows)
    left = section.epochs - shared_visits / rows
    return Schedule(left, learning_rate, section.batch_rows, keep="best")
