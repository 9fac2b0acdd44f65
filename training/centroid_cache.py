"""The cluster cache: the latest gradients of each cluster, first in first out (section 5.3.2)."""

from __future__ import annotations

import torch
from torch import Tensor


class ExactCache:
    """Holds the last `capacity` unit gradients of each of K clusters: K * capacity * d float32."""

    def __init__(self, k: int, capacity: int, dimension: int, device: torch.device) -> None:
        """Start empty; a cluster's buffer is taken when its first row comes."""
        self.capacity = capacity
        self.dimension = dimension
        self.device = device
        self._buffers: list[Tensor | None] = [None] * k  # each [capacity, d]
        self._sums = torch.zeros(k, dimension, dtype=torch.float64, device=device)  # [K, d]
        self._seen = [0] * k

    def insert(self, label: int, gradients: Tensor) -> None:
        """Append the cluster's new unit gradients [m, d] in order, dropping its oldest beyond the capacity."""
        buffer = self._buffers[label]
        if buffer is None:
            buffer = self._buffers[label] = torch.zeros(self.capacity, self.dimension, device=self.device)
        for gradient in gradients:
            slot = self._seen[label] % self.capacity
            # float64: adding and subtracting the same float32 numbers leaves no trace of the dropped ones.
            self._sums[label] += gradient.double() - buffer[slot].double()
            buffer[slot] = gradient
            self._seen[label] += 1

    def mean(self, label: int) -> Tensor:
        """Mean [d] of what the cluster's cache holds; it must hold something."""
        held = min(self._seen[label], self.capacity)
        return (self._sums[label] / held).float()
