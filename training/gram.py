"""The Gram matrix of the probe's unit gradients, and weighted sums of them, without storing more than fits.

G [n, d] never has to exist whole: H = G G^T is formed block by block, and what does not fit in memory is
computed again. V of G = U S V^T is never formed either (section 5.3.1): everything is a function of H, and a
centroid in R^d is a weighted sum of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from training.progress import Advance, ignore_progress
from training.rendering import TokenRow
from training.row_gradients import RowGradients

_COLUMNS = 1 << 20  # entries of d multiplied at once; the partial products are added up in float64


class ProbeGradients:
    """The probe's unit gradients, held if they fit in `memory_bytes`, else recomputed block by block."""

    def __init__(self, source: RowGradients, rows: Sequence[TokenRow], memory_bytes: int) -> None:
        """Plan the blocks."""
        self.source = source
        self.rows = rows
        # Two blocks are held at once when there is more than one.
        held = max(1, memory_bytes // (source.dimension * 4))
        self.block_rows = len(rows) if held >= len(rows) else max(1, held // 2)
        self.starts = range(0, len(rows), self.block_rows)
        self._held: Tensor | None = None

    @property
    def computed_rows(self) -> int:
        """Row gradients that `gram` and one `weighted_sums` compute together."""
        blocks = len(self.starts)
        if blocks == 1:
            return len(self.rows)
        pairs = sum(
            len(self._rows_of(other)) for start in self.starts for other in self.starts if other > start
        )
        return len(self.rows) + pairs + len(self.rows)

    def gram(self, advance: Advance = ignore_progress) -> Tensor:
        """H [n, n] float64: the cosines between the rows' gradients."""
        n = len(self.rows)
        gram = torch.zeros(n, n, dtype=torch.float64)
        for start in self.starts:
            block = self._block(start, advance)  # [b, d]
            for other_start in self.starts:
                if other_start < start:
                    continue
                other = block if other_start == start else self._block(other_start, advance)  # [b', d]
                product = _product(block, other)  # [b, b']
                rows = slice(start, start + len(block))
                columns = slice(other_start, other_start + len(other))
                gram[rows, columns] = product
                gram[columns, rows] = product.T
        return gram

    def weighted_sums(self, weights: Tensor, advance: Advance = ignore_progress) -> Tensor:
        """G^T w for weights [n, K]: [K, d] float32."""
        device = self.source.device
        sums = torch.zeros(weights.shape[1], self.source.dimension, device=device)  # [K, d]
        for start in self.starts:
            block = self._block(start, advance)  # [b, d]
            sums += weights[start : start + len(block)].T.to(sums) @ block
        return sums

    def _rows_of(self, start: int) -> Sequence[TokenRow]:
        return self.rows[start : start + self.block_rows]

    def _block(self, start: int, advance: Advance) -> Tensor:
        if len(self.starts) == 1:
            if self._held is None:
                self._held = self._compute(start, advance)
            return self._held
        return self._compute(start, advance)

    def _compute(self, start: int, advance: Advance) -> Tensor:
        gradients = self.source.whole(self._rows_of(start), advance)  # [b, d]
        return normalize(gradients, dim=1, out=gradients)


def _product(left: Tensor, right: Tensor) -> Tensor:
    product = torch.zeros(len(left), len(right), dtype=torch.float64)  # [b, b']
    for start in range(0, left.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        product += (left[:, columns] @ right[:, columns].T).double().cpu()
    return product
