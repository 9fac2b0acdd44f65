"""Rows with clusters that are known, and rows without any."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


def planted(k: int, each: int = 20, d: int = 60, spread: float = 0.05) -> tuple[Tensor, np.ndarray]:
    """Unit rows [k * each, d] in k tight bundles of directions, shuffled, and their labels."""
    generator = torch.Generator().manual_seed(k)
    centres = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0][:k]
    labels = torch.arange(k).repeat_interleave(each)[torch.randperm(k * each, generator=generator)]
    noise = spread * torch.randn(k * each, d, dtype=torch.float64, generator=generator)
    return normalize(centres[labels] + noise, dim=1), labels.numpy()


def isotropic(n: int, d: int) -> Tensor:
    """Unit rows [n, d] in no particular direction."""
    generator = torch.Generator().manual_seed(n)
    return normalize(torch.randn(n, d, dtype=torch.float64, generator=generator), dim=1)
