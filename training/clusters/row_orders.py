"""Does the order of the rows decide the partition? Calibrate in other orders and compare (section 5.3.2).

The paper says that the cluster cache keeps the order from mattering; this measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.nn.functional import normalize

from training.gradients.source import Compared
from training.progress import Advance, ignore_progress


class InCoordinates:
    """The probe's rows in coordinates of their own span, as a source of gradients.

    With H = U S^2 U^T the rows of U S [n, r] have the very inner products that the gradients have, so Stage II
    runs on them as it does on the gradients; only unseen rows can't be told from them.
    """

    def __init__(self, gram: Tensor) -> None:
        """Take cosines [n, n] float64."""
        energies, vectors = torch.linalg.eigh(gram)  # [n], [n, n]
        self.vectors = normalize((vectors * energies.clamp_min(0).sqrt()).float(), dim=1)  # [n, n]
        self.device = self.vectors.device

    @property
    def dimension(self) -> int:
        """n: the span of n rows has no more directions."""
        return self.vectors.shape[1]

    def owners(self, rows: Sequence[int]) -> list[int]:
        """As `UnitGradients.owners`: every process works alone here."""
        return [0] * len(rows)

    def unit(self, rows: Sequence[int], advance: Advance = ignore_progress) -> Tensor:
        """As `UnitGradients.unit`."""
        advance(len(rows))
        return self.vectors[list(rows)]

    def compare(self, rows: Sequence[int], centroids: Tensor, advance: Advance = ignore_progress) -> Compared:
        """As `UnitGradients.compare`; raw norms are not known here."""
        ones = torch.ones(len(rows), dtype=torch.float64)
        return Compared((self.unit(rows, advance) @ centroids.T).double(), ones, ones)


def shuffle_agreement(
    partition_of: Callable[[int], NDArray[np.int64]], orders: int, rows: str
) -> dict[str, Any]:
    """Compare the partitions [n] that several orders give, by adjusted Rand index (1: the same partition).

    `partition_of(order)` gives the labels after calibration in order number 0 (the run's own), 1, 2, ...
    """
    partitions = [partition_of(order) for order in range(orders)]
    pairs = [
        {"orders": [one, other], "ari": float(adjusted_rand_score(partitions[one], partitions[other]))}
        for one in range(orders)
        for other in range(one + 1, orders)
    ]
    return {"orders": orders, "rows": len(partitions[0]), "on": rows, "pairs": pairs}
