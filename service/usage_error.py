"""What is wrong with how the service was asked to start. Alone here, so that the command line needs no FastAPI."""

from __future__ import annotations


class UsageError(ValueError):
    """The service can't be started as it was asked to; the message is the sentence for the user."""
