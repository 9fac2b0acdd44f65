"""What a model's own card says."""

from __future__ import annotations

from pathlib import Path

import yaml


def license_of(folder: Path) -> str | None:
    """Return the licence that the card's front matter (README.md) states, or None."""
    card = folder / "README.md"
    parts = card.read_text(encoding="utf-8").split("---\n", 2) if card.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    stated = front.get("license") if isinstance(front, dict) else None
    return stated if isinstance(stated, str) else None
