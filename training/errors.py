"""The errors that training raises for what a user can mend."""

from __future__ import annotations


class TrainingError(ValueError):
    """Training can't go on; the message says what, where and what to do."""


class RecipeError(TrainingError):
    """The recipe, or a --set of it, is wrong."""


class RowsError(TrainingError):
    """The rows can't be read, or too many of them can't be used."""


class AdapterRefused(TrainingError):
    """Per-row gradients are not exact for this adapter or model."""


class PackError(TrainingError):
    """What is to be packed can't be served as it is; the message says which file and field."""
