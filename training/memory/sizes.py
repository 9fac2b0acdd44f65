"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from training.errors import RecipeError

_UNITS = {"": 1, "B": 1} | {
    f"{letter}{infix}B": base**power
    for power, letter in enumerate("KMGT", start=1)
    for infix, base in (("", 1000), ("i", 1024))
}
_MEGABYTE = 1 << 20


def parse_size(text: str, option: str) -> int:
    """Return the bytes of a size such as 8GB, 512MB or 1.5GiB.

    Raises:
        RecipeError: it is none; `option` is what the message calls it.

    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?i?B?)\s*", text)
    if not found or found[2] not in _UNITS:
        raise RecipeError(f"{option} {text!r} is not a size. Write it as 8GB, 512MB or 1.5GiB.")
    return round(float(found[1]) * _UNITS[found[2]])


def budgets(memory: str | None, disk: str | None) -> dict[str, int]:
    """Return the recipe's budgets, in whole MiB, for what --memory-budget and --disk-budget say.

    Raises:
        RecipeError: one of them is no size.

    """
    given = (("memory", memory), ("disk", disk))
    return {
        f"clusters.{name}_budget_mb": -(-parse_size(text, f"--{name}-budget") // _MEGABYTE)
        for name, text in given
        if text is not None
    }


def gigabytes(size: int) -> str:
    """Write bytes as people read them: 1.50 GB, 23 MB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 100 * unit else f"{size / unit:,.0f} {name}"
    return f"{size / 1000:.3g} kB"
