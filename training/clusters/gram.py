"""The Gram matrix of the probe's unit gradients, and weighted sums of them, without storing more than fits.

G [n, d] never has to exist whole: H = G G^T is formed block by block, and a block that is not held is fetched
again. V of G = U S V^T is never formed either (section 5.3.1): everything is a function of H, and a centroid in
R^d is a weighted sum of rows. Several processes each hold a block of their own and see the others' go by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from training.gradients.source import UnitGradients
from training.progress import Advance, ignore_progress
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

_COLUMNS = 1 << 20  # entries of d multiplied at once; the partial products are added up in float64


class ProbeGradients:
    """The probe's unit gradients, `block_rows` of them held at once (and as many of another block)."""

    def __init__(self, source: UnitGradients, rows: Sequence[int], block_rows: int, world: World) -> None:
        """Plan the blocks; `rows` are the probe's row numbers."""
        self.source = source
        self.rows = rows
        self.world = world
        owners = np.asarray(source.owners(rows))
        self._blocks: list[list[list[int]]] = []  # [rank][round]: places in the probe
        for rank in range(world.size):
            mine = np.flatnonzero(owners == rank).tolist()
            self._blocks.append([mine[i : i + block_rows] for i in range(0, len(mine), block_rows)])
        self._sizes = [len(block) for block in self._blocks[world.rank]]
        self.rounds = max(len(blocks) for blocks in self._blocks)
        self._held: Tensor | None = None

    @property
    def computed_rows(self) -> int:
        """Rows that `gram` and one `weighted_sums` fetch together, in this process."""
        if self.rounds == 1:
            return sum(self._sizes)
        for_gram = sum(sum(self._sizes[turn:]) for turn in range(self.rounds))
        return for_gram + sum(self._sizes)

    def gram(self, checkpoint: Checkpoint, advance: Advance = ignore_progress) -> Tensor:
        """H [n, n] float64: the cosines between the rows' gradients."""
        n = len(self.rows)
        gram = torch.zeros(n, n, dtype=torch.float64)
        begin = 0
        saved = checkpoint.load()
        if saved is not None and saved.facts["blocks"] == self._blocks:
            begin, gram = saved.facts["rounds"], saved.tensors["gram"]
            advance(sum(sum(self._sizes[turn:]) for turn in range(begin)))
        for turn in range(begin, self.rounds):
            held = self._block(self.world.rank, turn, advance)  # [b, d]
            rows = self._places(self.world.rank, turn)
            for later in range(turn, self.rounds):
                for columns, block in self._passing(later, held if later == turn else None, advance):
                    product = _product(held, block)  # [b, b']
                    gram[np.ix_(rows, columns)] = product
                    if later > turn:  # in this round the others' own turn fills the mirror image
                        gram[np.ix_(columns, rows)] = product.T
            if turn + 1 < self.rounds and checkpoint.due():
                checkpoint.save({"rounds": turn + 1, "blocks": self._blocks}, {"gram": gram})
        return self.world.all_reduce(gram)  # each entry is one process's: the others add zero

    def weighted_sums(
        self, weights: Tensor, shares: FactorShares | None = None, advance: Advance = ignore_progress
    ) -> Tensor:
        """G^T w for weights [n, K]: [K, d] float32; `shares` looks at each block that goes by."""
        sums = torch.zeros(weights.shape[1], self.source.dimension, device=self.source.device)  # [K, d]
        for turn in range(len(self._blocks[self.world.rank])):
            block = self._block(self.world.rank, turn, advance)  # [b, d]
            sums += weights[self._places(self.world.rank, turn)].T.to(sums) @ block
            if shares is not None:
                shares.add(block)
        return self.world.all_reduce(sums)

    def _places(self, rank: int, turn: int) -> list[int]:
        blocks = self._blocks[rank]
        return blocks[turn] if turn < len(blocks) else []

    def _passing(
        self, turn: int, held: Tensor | None, advance: Advance
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Every process's block of this turn, one after the other, in all processes."""
        own = self._block(self.world.rank, turn, advance) if held is None else held
        for rank in range(self.world.size):
            places = self._places(rank, turn)
            if not places:
                continue
            if rank == self.world.rank:
                yield places, self.world.broadcast(own, rank)
            else:
                yield places, self.world.broadcast(own.new_empty(len(places), own.shape[1]), rank)

    def _block(self, rank: int, turn: int, advance: Advance) -> Tensor:
        if self.rounds > 1:
            return self._fetch(rank, turn, advance)
        if self._held is None:
            self._held = self._fetch(rank, turn, advance)
        return self._held

    def _fetch(self, rank: int, turn: int, advance: Advance) -> Tensor:
        return self.source.unit([self.rows[place] for place in self._places(rank, turn)], advance)


class FactorShares:
    """The share of each LoRA weight in the squared norm, a mean over rows."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        """Look at these places [start, stop) of d."""
        self.spans = spans
        self._sums = torch.zeros(len(spans) + 1, dtype=torch.float64)  # the last counts rows

    def add(self, unit: Tensor) -> None:
        """Take in unit gradients [b, d]."""
        for number, (start, stop) in enumerate(self.spans):
            self._sums[number] += float(unit[:, start:stop].square().sum())
        self._sums[-1] += len(unit)

    def mean(self, world: World) -> list[float]:
        """The shares [F] over all processes' rows; they add up to 1."""
        sums = world.all_reduce(self._sums.clone())
        return (sums[:-1] / sums[-1].clamp_min(1)).tolist()


def _product(left: Tensor, right: Tensor) -> Tensor:
    product = torch.zeros(len(left), len(right), dtype=torch.float64)  # [b, b']
    for start in range(0, left.shape[1], _COLUMNS):
        columns = slice(start, start + _COLUMNS)
        product += (left[:, columns] @ right[:, columns].T).double().cpu()
    return product
