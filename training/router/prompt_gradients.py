"""A prompt's own gradient against the centroids: what the gradient router (GS of section 6.4) knows of it.

The label of a training row is the argmax of this very cosine, but over the answer's tokens, which a request does not
have. Its prompt is all there is: the loss is the mean over the prompt's own tokens, in the chat template, with the
warm-up adapter on the frozen base, and the gradient of it is compared with the centroids that Stage II left.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from training.clusters.results import Assigned, Calibrated
from training.gradients.source import Recomputed
from training.gradients.supply import row_gradients
from training.progress import Advance, ignore_progress
from training.rows.rendering import TokenRow, prompt_ids
from training.stages.inputs import Inputs
from training.stages.outcome import TrainedAdapter
from training.stages.processes import World

_PIECE_ROWS = 64  # between two steps of a progress bar; enough to fill micro-batches with rows of one length


class PromptGradients:
    """The base with the warm-up adapter, and one centroid for each label."""

    def __init__(
        self, inputs: Inputs, warmup: TrainedAdapter, centroids: Calibrated, assigned: Assigned
    ) -> None:
        """Load the base; the stages are of the run that `inputs` are of."""
        self._tokenizer = inputs.tokenizer
        self._longest = min(inputs.recipe.data.max_length, inputs.base.max_positions)
        # Merged for good: the model is this object's own.
        self._gradients = row_gradients(inputs, warmup).__enter__()
        self.centroids = centroids.centroids()[assigned.centroid_of_label].to(self._gradients.device)
        """Unit vectors `[K, d]`, in the order of the labels."""

    def cosines(self, texts: Sequence[str], advance: Advance = ignore_progress) -> NDArray[np.float64]:
        """Return the cosines `[n, K]` of the prompts' gradients with the centroids; 0 for a text without a token."""
        found = np.zeros((len(texts), len(self.centroids)))
        rows = [self._row(text) for text in texts]
        some = [place for place, row in enumerate(rows) if len(row.input_ids) > 1]
        some.sort(key=lambda place: len(rows[place].input_ids))
        for start in range(0, len(some), _PIECE_ROWS):
            piece = some[start : start + _PIECE_ROWS]
            found[piece] = self._compared([rows[place] for place in piece], self.centroids, advance)
        return found

    def _row(self, text: str) -> TokenRow:
        message = {"role": "user", "content": text}
        ids = prompt_ids(self._tokenizer, (message,))[: self._longest]  # type: ignore[arg-type]
        # A row whose prompt is its first token, which nothing predicts: the loss is on all the others.
        return TokenRow("a prompt", None, text, array("i", ids), 1)

    def _compared(
        self, rows: Sequence[TokenRow], centroids: torch.Tensor, advance: Advance
    ) -> NDArray[np.float64]:
        compared = Recomputed(self._gradients, rows, World()).compare(range(len(rows)), centroids, advance)
        return compared.cosines.cpu().numpy()
