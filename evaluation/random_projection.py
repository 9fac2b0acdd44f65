"""ELREA's way to small gradients: a random projection to 8,192 dimensions (section 6.2 of the paper; LESS before it)."""

from __future__ import annotations

import torch
from torch import Tensor

DIMENSIONS = 8192  # what the paper says of ELREA
_PIECE = 4096  # entries of d projected at once: the matrix [d, 8192] never exists whole


def project(gradients: Tensor, dimensions: int, seed: int) -> Tensor:
    """Project gradients [n, d] to [n, dimensions] by a seeded matrix of signs over sqrt(dimensions).

    Inner products are kept on average; a cosine near zero is off by about 1 / sqrt(dimensions).
    """
    projected = torch.zeros(len(gradients), dimensions, device=gradients.device)  # [n, m]
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, gradients.shape[1], _PIECE):
        piece = gradients[:, start : start + _PIECE]  # [n, p]
        shape = (piece.shape[1], dimensions)
        signs = torch.randint(0, 2, shape, generator=generator, dtype=torch.int8)  # [p, m]
        projected += piece @ (signs.to(piece) * 2 - 1)
    return projected / dimensions**0.5
