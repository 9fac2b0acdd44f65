"""What a model's own card says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def license_of(folder: Path) -> str | None:
    """Return the licence that the card's front matter (README.md) states, or None."""
    stated = _front_matter(folder).get("license")
    return stated if isinstance(stated, str) else None


def languages_of(folder: Path) -> list[str]:
    """Return the languages that the card's front matter states, or none."""
    stated = _front_matter(folder).get("language")
    listed = stated if isinstance(stated, list) else [stated]
    return [language for language in listed if isinstance(language, str)]


def _front_matter(folder: Path) -> dict[str, Any]:
    card = folder / "README.md"
    parts = card.read_text(encoding="utf-8").split("---\n", 2) if card.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}
    return front if isinstance(front, dict) else {}
