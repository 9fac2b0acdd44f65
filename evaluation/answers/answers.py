"""The answers that a method writes to questions with a known short answer: exact match."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.answers.engines import Engine
from evaluation.answers.exact_match import is_match
from evaluation.answers.mixed import mixed_answers
from evaluation.seed.drawn_rows import DrawnRow
from evaluation.seed.partition import Fitted
from evaluation.seed.scoring import loaded
from evaluation.seed.seed_run import SeedRun
from training.stages.store import Stage


def exact_matches(
    run: SeedRun,
    name: str,
    fitted: Fitted,
    places: NDArray[np.int64],
    asked: Sequence[DrawnRow],
    engine: Engine,
    max_new_tokens: int,
) -> dict[str, NDArray[np.bool_]]:
    """Whether each answer is right [n], by every way of choosing; `places` [n] are the rows' of `asked` [n].

    A row that one model answers is answered by the engine, a mixture token by token here. Both are greedy.
    """

    def work(folder: Path) -> dict[str, Any]:
        with run.store.narrator.bar("answers", len(fitted.weights) * len(asked), "rows") as advance:
            found = {}
            known: dict[
                tuple[int, int], str
            ] = {}  # by row and model: the ways of choosing agree on most rows
            for route, table in fitted.weights.items():
                weights = table[places]  # [n, M]
                single = (weights == 1).any(axis=1)  # [n]
                texts = [""] * len(asked)
                for place in np.unique(weights[single].argmax(1)).tolist():
                    rows = np.flatnonzero(single & (weights[:, place] == 1)).tolist()
                    new = [row for row in rows if (row, place) not in known]
                    if new:
                        prompts = [asked[row].prompt for row in new]
                        written = engine.answers(fitted.models[place], prompts, max_new_tokens)
                        known |= {(row, place): text for row, text in zip(new, written, strict=True)}
                    for row in rows:
                        texts[row] = known[row, place]
                    advance(len(rows))
                mixed = np.flatnonzero(~single).tolist()
                if mixed:
                    with loaded(run.inputs.base, fitted.models) as models:
                        prompts = [asked[row].prompt for row in mixed]
                        tokenizer = run.inputs.tokenizer
                        written = mixed_answers(
                            models, weights[mixed], prompts, tokenizer, max_new_tokens, advance
                        )
                    for row, text in zip(mixed, written, strict=True):
                        texts[row] = text
                found[route] = texts
        return {"texts": found, "engine": engine.name}

    depends_on = {
        "models": fitted.digest(places),
        "prompts": [list(row.prompt) for row in asked],
        "max_new_tokens": max_new_tokens,
        "engine": engine.name,
    }
    done = run.store.run(Stage(f"answers-{name}", f"{name}: {len(asked):,} rows answered", depends_on), work)
    return {
        route: np.array([is_match(text, str(row.answer)) for text, row in zip(texts, asked, strict=True)])
        for route, texts in done.facts["texts"].items()
    }
