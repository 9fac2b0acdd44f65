"""Which centroid is which label's: clusters are merged and ordered by size after their centroids were made."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.clusters.assignment import Assignment
from training.errors import TrainingError

_SAME_COSINE = (
    1e-3  # float32 sums in another order differ by far less, two centroids of one cluster by far more
)


def nearest_rows(assignment: Assignment) -> list[int]:
    """The row of each label that is nearest to its centroid [K]."""
    return [
        int(np.where(assignment.labels == label, assignment.cosine, -np.inf).argmax())
        for label in range(assignment.k)
    ]


def centroid_of_label(cosines: NDArray[np.float64], known: NDArray[np.float64]) -> list[int]:
    """Which centroid is each label's, by one row of each: cosines [K, centroids], its known cosine [K].

    Raises:
        TrainingError: a row has not the cosine that it was assigned with, to any centroid.

    """
    difference = np.abs(cosines - known[:, None])
    columns = difference.argmin(1)
    if difference.min(1).max() > _SAME_COSINE or len(set(columns)) < len(columns):
        raise TrainingError(
            "The centroids can't be told apart: the gradients of rows that were assigned before come out differently "
            "now. Start with a new run folder."
        )
    return [int(column) for column in columns]
