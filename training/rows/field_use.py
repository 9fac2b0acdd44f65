"""What became of every field of a file: for a run's first lines and its report."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass
class FileRead:
    """What was read of one file: its form, and what became of every field, each with the rows that have it."""

    file: str
    rows: int = 0
    unusable: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    fields: Counter[tuple[str, str]] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Say it, the file first, then a line per field."""
        total = self.rows + self.unusable
        forms = ", ".join(
            form if count == total else f"{form} ({count:,})" for form, count in self.forms.most_common()
        )
        said = [
            f"{self.file}: {total:,} rows, {forms or 'of no known form'}"
            + "".join(f"; {note}" for note in self.notes)
        ]
        for (name, use), count in self.fields.items():
            said.append(f"    {name}: {use}" + (f" (in {count:,} rows)" if count < total else ""))
        if self.unread:
            said.append(f"    not used: {', '.join(self.unread)}")
        return said

    def summary(self) -> dict[str, Any]:
        """Return it for report.json."""
        return {
            "file": self.file,
            "rows": self.rows,
            "unusable": self.unusable,
            "forms": dict(self.forms),
            "fields": [
                {"field": name, "use": use, "rows": count} for (name, use), count in self.fields.items()
            ],
            "not_used": dict(self.unread),
            "notes": self.notes,
        }
