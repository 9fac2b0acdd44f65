"""How the encoder computes as it is served: in int8, in float32, or in int8 first and then in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Int8FirstRecord, Precision
from router.cascade import margins
from router.encoder_graph import INT8_FILE, MODEL_FILE, EncoderGraph
from router.tokens import TextTokens
from training.progress import Narrator
from training.router.int8 import quantise
from training.router.quality import MOST_LOST, RouterScores, surest_share
from training.router.rows import JudgedRows

KEPT_DECISIONS = 0.995
"""Share of held-out decisions that must stay the same."""
USEFUL_SHARE = 0.95
"""ours: what int8 is unsure of is read twice, and one in twenty is what the slowest twentieth waits for."""
_CALIBRATION_TEXTS = 256
_BAR_ROWS = 50


@dataclass(frozen=True)
class ChosenPrecision:
    """What stays in the router's folder, and the scores of all held-out rows `[n, K]`.

    `scores` as the encoder is served, int8 before it where that is sure; `alone` of the encoder in `precision`.
    """

    precision: Precision
    int8_first: Int8FirstRecord | None
    scores: RouterScores
    alone: RouterScores
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
    decisions. Else both stay, and int8 answers where its margin is large: from which on was chosen on the rows
    marked `fitted` and judged on the others. Else float32 stays alone.
    """
    spread = texts[:: max(1, len(texts) // _CALIBRATION_TEXTS)]  # files come one after the other
    quantise(folder / MODEL_FILE, folder / INT8_FILE, spread, tokens)
    int8 = _scores(folder, score, width, max_tokens, held_out, narrator)
    same = int8.argmax(axis=1) == float32.argmax(axis=1)
    unchanged = float(same.mean())
    found: dict[str, Any] = {"unchanged": unchanged, "rows": len(same), "needed": KEPT_DECISIONS}
    said = f"    int8 keeps {unchanged:.2%} of {len(same):,} held-out decisions"
    if unchanged >= KEPT_DECISIONS:
        (folder / INT8_FILE).replace(folder / MODEL_FILE)
        narrator.say(f"{said}: it is used")
        return ChosenPrecision(
            "int8", None, int8, int8, found | {"kept": True, "first": None, "reason": None}
        )
    margin, fitted = margins(int8), held_out.fitted
    threshold = surest_share(margin[fitted], same[fitted], KEPT_DECISIONS)
    sure = margin >= (np.inf if threshold is None else threshold)
    served = np.where(sure[:, None], int8, float32)
    first, reason = _judged(threshold, sure, served, float32, held_out)
    if first is None:
        (folder / INT8_FILE).unlink()
        narrator.say(f"{said}, {KEPT_DECISIONS:.1%} are needed, and {reason}: float32 stays")
        return ChosenPrecision(
            "float32", None, float32, float32, found | {"kept": False, "first": None, "reason": reason}
        )
    narrator.say(
        f"{said}: it answers the {first.share:.1%} it is sure of, float32 the rest, and {first.unchanged:.2%} stay"
    )
    found |= {"kept": False, "first": first.model_dump(), "reason": None}
    return ChosenPrecision("float32", first, served, float32, found)


def _scores(
    folder: Path,
    score: Callable[[NDArray[np.float32]], RouterScores],
    width: int,
    max_tokens: int,
    held_out: JudgedRows,
    narrator: Narrator,
) -> RouterScores:
    graph = EncoderGraph(folder, "text_embedding", width, max_tokens, 1, "head_and_tail", INT8_FILE)
    parts = []
    with narrator.bar("encoding prompts in int8", len(held_out.texts), "rows") as advance:
        for start in range(0, len(held_out.texts), _BAR_ROWS):
            parts.append(score(graph.run(held_out.texts[start : start + _BAR_ROWS])))
            advance(len(parts[-1]))
    return np.concatenate(parts)  # [n, K]


def _judged(
    threshold: float | None,
    sure: NDArray[np.bool_],
    served: RouterScores,
    float32: RouterScores,
    held_out: JudgedRows,
) -> tuple[Int8FirstRecord | None, str | None]:
    """Return what int8 first is worth on the rows that did not choose its threshold; else why it is not used."""
    if threshold is None:
        rows = int(held_out.fitted.sum())
        return None, f"{rows:,} held-out rows don't show {KEPT_DECISIONS:.1%} of them at any margin"
    others = ~held_out.fitted
    share = float(sure[others].mean())
    if share < USEFUL_SHARE:
        return None, f"it is sure of {share:.1%} only, less than {USEFUL_SHARE:.0%}"
    before, after, labels = float32[others].argmax(1), served[others].argmax(1), held_out.labels[others]
    unchanged = float((before == after).mean())
    lost = float((before == labels).mean() - (after == labels).mean())
    if unchanged < KEPT_DECISIONS:
        return None, f"with float32 for what it is unsure of, only {unchanged:.2%} stay"
    if lost > MOST_LOST:
        return None, f"where it is sure, it costs {100 * lost:.2f} points of agreement with the clusters"
    return Int8FirstRecord(
        threshold=threshold, share=share, unchanged=unchanged, rows=int(others.sum())
    ), None
