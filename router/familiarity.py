"""How far a text's encoding lies from those of training's prompts: what is far is unlike anything in training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from router.encoder_graph import ENCODING


class Familiarity:
    """The squared Mahalanobis distance of a text's direction from the nearest prototype of training's prompts.

    A direction is an encoding `[H]` over its length. `whitening` `[H, H]` makes the covariance of training's directions
    around their prototypes the identity, and `prototypes` `[P, H]` have been multiplied by it. Fitted by
    `training/router/unfamiliar.py`; other distances stand in docs/measurements/unfamiliar.md.
    """

    def __init__(
        self,
        whitening: NDArray[np.float32],
        prototypes: NDArray[np.float32],
        threshold: float = float("inf"),
    ) -> None:
        """`threshold` is the distance up to which a text is familiar."""
        self._whitening, self._prototypes = whitening, prototypes
        self._threshold = threshold

    @property
    def reads(self) -> dict[str, int]:
        """The output of the encoder's graph that is looked at, and its width."""
        return {ENCODING: len(self._whitening)}

    def distances(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return `[n]` of encodings `[n, H]`, each by itself."""
        lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
        directions = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
        # One by one: in a product of several rows a row's last bits depend on the others.
        return np.array([self._distance(direction) for direction in directions], dtype=np.float32)

    def _distance(self, direction: NDArray[np.float32]) -> float:
        apart = self._prototypes - direction @ self._whitening  # [P, H]
        return float(np.einsum("ph,ph->p", apart, apart).min())

    def too_far(self, embeddings: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which of the encodings `[n, H]` are unfamiliar `[n]`."""
        return self.distances(embeddings) > self._threshold


def unfamiliar(
    found: Mapping[str, NDArray[np.float32]], familiarity: Familiarity | None
) -> NDArray[np.bool_]:
    """Return which texts are unfamiliar `[n]` by the outputs of an encoder's graph; none without a `familiarity`."""
    if familiarity is None:
        return np.zeros(len(next(iter(found.values()))), dtype=bool)
    return familiarity.too_far(found[ENCODING])
