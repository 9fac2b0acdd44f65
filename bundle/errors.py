"""The one error that reading or writing a bundle raises."""

from __future__ import annotations


class BundleError(ValueError):
    """A bundle, or the base model it is put on, is not what its manifest says.

    `file` is the path inside the bundle (or of the base model), `field` the manifest field or tensor.
    """

    def __init__(self, file: str, field: str, problem: str, remedy: str) -> None:
        """Keep the parts, and make of them the one sentence a user reads."""
        self.file = file
        self.field = field
        where = f"{file}, field {field!r}" if field else file
        super().__init__(f"{where}: {problem}. {remedy}")
