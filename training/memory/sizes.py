"""Sizes in bytes, as people read them."""

from __future__ import annotations


def gigabytes(size: int) -> str:
    """Write bytes as people read them: 1.50 GB, 23 MB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}" if size < 100 * unit else f"{size / unit:,.0f} {name}"
    return f"{size / 1000:.3g} kB"
