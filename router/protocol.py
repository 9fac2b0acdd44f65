"""What every router can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Router(Protocol):
    """Section 5.4.2: a distribution over the K experts for each text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The K experts' names; column k of `probabilities` is `labels[k]`."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one. The texts may be empty, and there may be none."""
