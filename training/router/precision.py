"""How the encoder computes as it is served: in int8 where that keeps its decisions, else in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Precision
from router.encoder_graph import MODEL_FILE, EncoderGraph
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
    found: dict[str, Any]


def choose_precision(
    folder: Path,
    float32: RouterScores,
    score: Callable[[NDArray[np.float32]], RouterScores],
    width: int,
    texts: Sequence[str],
    tokens: TextTokens,
    max_tokens: int,
    held_out: JudgedRows,
    narrator: Narrator,
) -> ChosenPrecision:
    """Make the graph in `folder` smaller as far as the router decides as before on held-out rows.

    `float32` are its scores now `[n, K]`, and `score` makes such of encodings `[m, width]`; `texts`, not of the
    held-out rows, show how large activations get. Int8 takes float32's place if it keeps `KEPT_DECISIONS` of all
    decisions. Else float32 stays.
    """
    spread = texts[:: max(1, len(texts) // _CALIBRATION_TEXTS)]  # files come one after the other
    quantise(folder / MODEL_FILE, folder / _INT8_FILE, spread, tokens)
    int8 = _scores(folder, score, width, max_tokens, held_out, narrator)
    unchanged = float((int8.argmax(axis=1) == float32.argmax(axis=1)).mean())
    kept = unchanged >= KEPT_DECISIONS
    found = {"unchanged": unchanged, "rows": len(int8), "needed": KEPT_DECISIONS, "kept": kept}
    said = f"    int8 keeps {unchanged:.2%} of {len(int8):,} held-out decisions"
    if kept:
        (folder / _INT8_FILE).replace(folder / MODEL_FILE)
        narrator.say(f"{said}: it is used")
        return ChosenPrecision("int8", int8, found)
    (folder / _INT8_FILE).unlink()
    narrator.say(f"{said}, {KEPT_DECISIONS:.1%} are needed: float32 stays")
    return ChosenPrecision("float32", float32, found)


def _scores(
    folder: Path,
    score: Callable[[NDArray[np.float32]], RouterScores],
    width: int,
    max_tokens: int,
    held_out: JudgedRows,
    narrator: Narrator,
) -> RouterScores:
    graph = EncoderGraph(folder, "text_embedding", width, max_tokens, 1, "head_and_tail", _INT8_FILE)
    parts = []
    with narrator.bar("encoding prompts in int8", len(held_out.texts), "rows") as advance:
        for start in range(0, len(held_out.texts), _BAR_ROWS):
            parts.append(score(graph.run(held_out.texts[start : start + _BAR_ROWS])))
            advance(len(parts[-1]))
    return np.concatenate(parts)  # [n, K]
