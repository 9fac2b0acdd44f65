"""What a router is made of: rows to learn from, and held-out rows to be fitted to and judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RoutedRows:
    """Rows to learn from: what the router reads of each, and its label [N]."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class JudgedRows:
    """Held-out rows: as `RoutedRows`, and which of them [n] temperature and thresholds may be fitted on."""

    texts: Sequence[str]
    labels: NDArray[np.int64]
    fitted: NDArray[np.bool_]
