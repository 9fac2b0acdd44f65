"""The final assignment: every row to its nearest centroid, tiny clusters merged (section 5.3.3, equation 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.gradients.source import UnitGradients
from training.progress import Advance
from training.stages.checkpoint import Checkpoint

_PIECE_ROWS = 64  # between two chances of a checkpoint; enough to fill micro-batches with rows of one length


@dataclass(frozen=True)
class Assignment:
    """Where every row went. Clusters are numbered by size, the largest first.

    labels, cosine and margin [N] as in `Placed`; norm [N] of the raw gradient, norm_share_b [N]: share of its squared
    norm that lies in the B factors. centroid_of_label [K]: the place of each label's centroid among those that the
    rows were compared with.
    """

    labels: NDArray[np.int64]
    cosine: NDArray[np.float64]
    margin: NDArray[np.float64]
    norm: NDArray[np.float64]
    norm_share_b: NDArray[np.float64]
    centroid_of_label: tuple[int, ...]
    warnings: tuple[str, ...]

    @property
    def k(self) -> int:
        """The number of clusters."""
        return len(self.centroid_of_label)


@dataclass(frozen=True)
class ComparedRows:
    """All rows against the final centroids: cosines [N, K], norms [N], the share of B in their squares [N]."""

    cosines: NDArray[np.float64]
    norm: NDArray[np.float64]
    share_b: NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """Clusters of rows: labels [n], cosine [n] to the own centroid, margin [n] of the score over the runner-up's."""

    labels: NDArray[np.int64]
    cosine: NDArray[np.float64]
    margin: NDArray[np.float64]


def place(cosines: NDArray[np.float64], drawn: NDArray[np.float32] | None = None) -> Placed:
    """Give each row of cosines [n, K] the cluster of its highest score.

    The score is the cosine (equation 9), and `drawn` [n, K] is added where clusters are to be readable. Where there
    is no runner-up, its score counts as -1.
    """
    scores = cosines if drawn is None else cosines + drawn
    labels, ranked = scores.argmax(1), np.sort(scores, axis=1)
    runner_up = ranked[:, -2] if scores.shape[1] > 1 else np.full(len(scores), -1.0)
    return Placed(labels, cosines[np.arange(len(labels)), labels], ranked[:, -1] - runner_up)


def compare_rows(
    source: UnitGradients,
    lengths: Sequence[int],
    centroids: Tensor,
    checkpoint: Checkpoint,
    advance: Advance,
) -> ComparedRows:
    """Compare every row (`lengths` [N] are their tokens) with unit centroids [K, d]; no gradient is kept."""
    world, n, k = checkpoint.world, len(lengths), centroids.shape[0]
    owners = np.asarray(source.owners(range(n)))
    by_length = np.argsort(np.asarray(lengths), kind="stable")
    mine = by_length[owners[by_length] == world.rank]
    found = torch.zeros(n, k + 2, dtype=torch.float64)  # [N, K + 2]: cosines, norm, share of B
    begin = 0
    saved = checkpoint.load()
    if saved is not None:
        begin, found = saved.facts["done"], saved.tensors["found"]
        advance(min(begin, len(mine)))
    # All processes take the same number of turns: they save together.
    most = max(np.bincount(owners, minlength=world.size)) if n else 0
    for start in range(begin, int(most), _PIECE_ROWS):
        piece = mine[start : start + _PIECE_ROWS].tolist()
        if piece:
            compared = source.compare(piece, centroids, advance)
            columns = (compared.cosines, compared.norm[:, None], compared.share_b[:, None])
            found[piece] = torch.cat([column.double().cpu() for column in columns], dim=1)
        if checkpoint.due():
            checkpoint.save({"done": start + _PIECE_ROWS}, {"found": found})
    everyone = world.all_reduce(found).numpy()
    return ComparedRows(everyone[:, :k], everyone[:, k], everyone[:, k + 1])


def assign(
    compared: ComparedRows,
    counted: NDArray[np.bool_],
    min_rows: int,
    drawn: NDArray[np.float32] | None = None,
) -> Assignment:
    """Assign rows [N] to centroids by cosine, and by `drawn` [N, K] if that is given, as in `place`.

    Only the rows marked in `counted` [N] (the training rows, not the validation rows) make up a cluster's size.
    A cluster smaller than `min_rows` is merged: each of its rows goes to its next best centroid.
    """
    scores = compared.cosines if drawn is None else compared.cosines + drawn
    kept, warnings = _merge_tiny(scores[counted], min_rows)
    placed = place(compared.cosines[:, kept], None if drawn is None else drawn[:, kept])  # [N, K'], by size
    return Assignment(
        labels=placed.labels,
        cosine=placed.cosine,
        margin=placed.margin,
        norm=compared.norm,
        norm_share_b=compared.share_b,
        centroid_of_label=tuple(kept),
        warnings=tuple(warnings),
    )


def _merge_tiny(scores: NDArray[np.float64], min_rows: int) -> tuple[list[int], list[str]]:
    kept = list(range(scores.shape[1]))
    warnings: list[str] = []
    while True:
        labels = scores[:, kept].argmax(1)
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
