"""Compute batches: rows of like length together, under a token budget. They can change no label."""

from __future__ import annotations

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Places of `lengths`, shortest first, in batches of at most `token_budget` padded tokens (or one row)."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        # Sorted upwards, the newest row is the longest: it sets what the whole batch is padded to.
        if batches and (len(batches[-1]) + 1) * lengths[place] <= token_budget:
            batches[-1].append(place)
        else:
            batches.append([place])
    return batches
