"""How the encoder computes as it is served: in int8 where that keeps its decisions, else in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Precision
from router.encoder_graph import ENCODING, MODEL_FILE, EncoderGraph
from router.tokens import TextTokens
from training.progress import Narrator
from training.router.int8 import quantise
from training.router.quality import RouterScores
from training.router.rows import JudgedRows

KEPT_DECISIONS = 0.995
"""Share of held-out decisions that must stay the same."""
_INT8_FILE = "model.int8.onnx"  # until it takes the other one's place
_CALIBRATION_TEXTS = 256
_BAR_ROWS = 50


@dataclass(frozen=True)
class ChosenPrecision:
    """What stays in the router's folder, and its scores of all held-out rows `[n, K]`."""

    precision: Precision
    scores: RouterScores
    embeddings: NDArray[np.float32]
    """Of the same rows `[n, H]`, as they will be served."""
    found: dict[str, Any]


def choose_precision(
    folder: Path,
    float32: NDArray[np.float32],
    score: Callable[[NDArray[np.float32]], RouterScores],
    texts: Sequence[str],
    tokens: TextTokens,
    max_tokens: int,
    held_out: JudgedRows,
    narrator: Narrator,
) -> ChosenPrecision:
    """Make the graph in `folder` smaller as far as the router decides as before on held-out rows.

    `float32` are their encodings now `[n, H]`, and `score` makes scores `[n, K]` of encodings; `texts`, not of the
    held-out rows, show how large activations get. Int8 takes float32's place if it keeps `KEPT_DECISIONS` of all
    decisions. Else float32 stays.
    """
    spread = texts[:: max(1, len(texts) // _CALIBRATION_TEXTS)]  # files come one after the other
    quantise(folder / MODEL_FILE, folder / _INT8_FILE, spread, tokens)
    int8 = _encodings(folder, float32.shape[1], max_tokens, held_out, narrator)
    scores, before = score(int8), score(float32)
    unchanged = float((scores.argmax(axis=1) == before.argmax(axis=1)).mean())
    kept = unchanged >= KEPT_DECISIONS
    found = {"unchanged": unchanged, "rows": len(int8), "needed": KEPT_DECISIONS, "kept": kept}
    said = f"    int8 keeps {unchanged:.2%} of {len(int8):,} held-out decisions"
    if kept:
        (folder / _INT8_FILE).replace(folder / MODEL_FILE)
        narrator.say(f"{said}: it is used")
        return ChosenPrecision("int8", scores, int8, found)
    (folder / _INT8_FILE).unlink()
    narrator.say(f"{said}, {KEPT_DECISIONS:.1%} are needed: float32 stays")
    return ChosenPrecision("float32", before, float32, found)


def _encodings(
    folder: Path, width: int, max_tokens: int, held_out: JudgedRows, narrator: Narrator
) -> NDArray[np.float32]:
    graph = EncoderGraph(folder, {ENCODING: width}, max_tokens, 1, "head_and_tail", _INT8_FILE)
    parts = []
    with narrator.bar("encoding prompts in int8", len(held_out.texts), "rows") as advance:
        for start in range(0, len(held_out.texts), _BAR_ROWS):
            parts.append(graph.run(held_out.texts[start : start + _BAR_ROWS])[ENCODING])
            advance(len(parts[-1]))
    return np.concatenate(parts)  # [n, H]
