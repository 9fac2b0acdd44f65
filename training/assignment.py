"""The final assignment: every row to its nearest centroid, tiny clusters merged (section 5.3.3, equation 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.progress import Advance
from training.rendering import TokenRow
from training.row_gradients import RowGradients


@dataclass(frozen=True)
class Assignment:
    """Where every row went. Clusters are numbered by size, the largest first.

    labels [N], cosine [N] to its own centroid, margin [N] to the runner-up, norm [N] of the raw gradient,
    norm_share_b [N]: share of its squared norm that lies in the B factors.
    """

    labels: NDArray[np.int64]
    cosine: NDArray[np.float64]
    margin: NDArray[np.float64]
    norm: NDArray[np.float64]
    norm_share_b: NDArray[np.float64]
    k: int
    warnings: tuple[str, ...]


def assign(
    source: RowGradients,
    rows: Sequence[TokenRow],
    counted: NDArray[np.bool_],
    centroids: Tensor,
    min_rows: int,
    advance: Advance,
) -> Assignment:
    """Assign rows [N] to unit centroids [K, d] by cosine; no gradient is kept.

    Only the rows marked in `counted` [N] (the training rows, not the validation rows) make up a cluster's size.
    A cluster smaller than `min_rows` is merged: each of its rows goes to its next best centroid.
    """
    contracted = source.contracted(rows, centroids, advance)
    squared = contracted.squared_norm_a + contracted.squared_norm_b  # [N]
    norm = squared.sqrt().cpu().numpy()
    divisor = squared.clamp_min(torch.finfo(squared.dtype).tiny)  # a zero gradient has cosine 0 to everything
    cosines = (contracted.products.double() / divisor.sqrt()[:, None]).cpu().numpy()  # [N, K]
    kept, warnings = _merge_tiny(cosines, counted, min_rows)
    cosines = cosines[:, kept]  # [N, K'], by size
    labels = cosines.argmax(1)
    ranked = np.sort(cosines, axis=1)
    runner_up = ranked[:, -2] if len(kept) > 1 else np.full(len(rows), -1.0)
    return Assignment(
        labels=labels,
        cosine=ranked[:, -1],
        margin=ranked[:, -1] - runner_up,
        norm=norm,
        norm_share_b=(contracted.squared_norm_b / divisor).cpu().numpy(),
        k=len(kept),
        warnings=tuple(warnings),
    )


def _merge_tiny(
    cosines: NDArray[np.float64], counted: NDArray[np.bool_], min_rows: int
) -> tuple[list[int], list[str]]:
    kept = list(range(cosines.shape[1]))
    warnings: list[str] = []
    while True:
        labels = cosines[counted][:, kept].argmax(1)
        sizes = np.bincount(labels, minlength=len(kept))
        smallest = int(sizes.argmin())
        if sizes[smallest] >= min_rows or len(kept) == 1:
            # Largest first; sizes that are equal keep their order.
            return [kept[place] for place in np.argsort(-sizes, kind="stable")], warnings
        what = "is dead: no row" if sizes[smallest] == 0 else f"is tiny: only {sizes[smallest]} rows"
        warnings.append(
            f"A cluster {what} came to it (clusters.min_rows is {min_rows}); it was merged into the nearest others."
        )
        del kept[smallest]
