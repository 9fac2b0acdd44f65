"""Most of the visits shared, then an expert per readable cluster, and every one of them answers (ours)."""

from __future__ import annotations

from evaluation.methods.share_then_split import ShareThenSplit
from evaluation.seed.partition import Partition
from evaluation.seed.seed_run import SeedRun

_PERCENT = 75  # what the recipe's default shares at most, so that only the gate and the stopping differ from `served`


class Readable(ShareThenSplit):
    """Shared, then split by clusters that a router can read off the prompt: Stage II as the recipe has it."""

    def __init__(self) -> None:
        """Share what the recipe's default shares."""
        super().__init__(_PERCENT)

    @property
    def name(self) -> str:
        """As `Method.name`."""
        return "readable"

    @property
    def title(self) -> str:
        """As `Method.title`."""
        return f"Share {self.percent} %, then readable clusters"

    def partition(self, run: SeedRun) -> Partition:
        """As `ShareThenSplit.partition`."""
        found = run.readable_clusters
        return run.routed(self.name, found.labels, found.k)
