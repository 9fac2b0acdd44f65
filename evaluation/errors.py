"""What evaluation tells the user."""

from __future__ import annotations

from training.errors import TrainingError


class EvidenceError(TrainingError):
    """Something a table or figure needs is not there; the message says what, where and what to do."""
