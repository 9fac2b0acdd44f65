"""Do sentences that mean the same teach the same? Gradient against embedding similarity (section 6.1, Figure 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import pearsonr, rankdata

from evaluation.errors import EvidenceError
from evaluation.evidence.exhibit import Exhibit, Table, canvas
from training.gradients.source import make_unit_
from training.gradients.supply import row_gradients
from training.rows.reading import Row
from training.rows.rendering import TokenRow, prompt_ids, render
from training.run import Run
from training.stages.inputs import Inputs
from training.stages.store import Stage, StageStore

# What the model is asked where the sentence is its answer; any constant would do.
_REQUEST = "Write a sentence."
_UNLIKE = ("0", "?")  # with them, whatever all renderings share is the template's and not the sentences'
_RESAMPLES = 2000

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two sentences, and how alike people found them: 0 to 5."""

    first: str
    second: str
    score: float


def read_pairs(file: Path, count: int, seed: int) -> list[Pair]:
    """Draw `count` pairs of STS-B from a JSON Lines file of sentence1, sentence2 and score.

    Raises:
        EvidenceError: there is no such file, it has another form, or fewer pairs.

    """
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        pairs = [Pair(str(one["sentence1"]), str(one["sentence2"]), float(one["score"])) for one in records]
    except OSError as error:
        raise EvidenceError(
            f"{file}: it can't be read ({error.strerror}). Give STS-B as JSON Lines, with --pairs FILE."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise EvidenceError(
            f"{file}: each line must be an object with sentence1, sentence2 and a numeric score ({error!r})."
        ) from error
    if len(pairs) < count:
        raise EvidenceError(f"{file}: it holds {len(pairs)} pairs, and {count} are asked for. Lower --count.")
    drawn = np.random.default_rng(seed).choice(len(pairs), count, replace=False)
    return [pairs[place] for place in sorted(drawn.tolist())]


def sentence_pairs(run: Run, store: StageStore, pairs: Sequence[Pair], seed: int) -> Exhibit:
    """Figure 4 on a run's base under its warm-up adapter: the cosines, and how they go with people's scores.

    The paper does not say how a sentence gets a loss. Its caption speaks of instruction pairs, so in the first
    rendering the sentence is the instruction and the loss is that of the sentence's own tokens; in the second it is
    the answer to a constant request, as rows are in training.

    Raises:
        TrainingError: the run has no warm-up adapter, or a sentence is too long for the base.

    """
    inputs, score = run.inputs, np.array([pair.score for pair in pairs])
    sentences = [text for pair in pairs for text in (pair.first, pair.second)]
    embedded = inputs.encoder.embed(sentences, inputs.recipe.router.max_tokens)
    texts = _cosines(torch.from_numpy(embedded))
    renderings = {
        "as instruction": _as_instructions(inputs, sentences),
        "as answer": _as_answers(inputs, sentences),
    }
    similarity = {name: _gradient_cosines(run, store, name, rows) for name, rows in renderings.items()}
    found: list[dict[str, Any]] = [_correlation("embeddings", "score", texts, score, seed)]
    for name, cosines in similarity.items():
        found.append(_correlation(f"gradients, {name}", "score", cosines, score, seed))
        found.append(_correlation(f"gradients, {name}", "embeddings", cosines, texts, seed))
    found.append(
        _correlation(
            "gradients, as instruction",
            "gradients, as answer",
            similarity["as instruction"],
            similarity["as answer"],
            seed,
        )
    )
    table = Table(
        f"Correlation over {len(pairs)} pairs, 95 % interval by resampling pairs",
        ("similarity by", "with", "Pearson", "Spearman"),
        [(one["of"], one["with"], _figure(one["pearson"]), _figure(one["spearman"])) for one in found],
    )
    figures = {
        "pairs": len(pairs),
        "correlations": found,
        "score": score.tolist(),
        "embedding": texts.tolist(),
        "gradient": {name: cosines.tolist() for name, cosines in similarity.items()},
    }
    notes = [
        "as instruction: the sentence is the user's turn, and the loss is that of its own tokens (the template's are "
        f"left out). as answer: it is the answer to {_REQUEST!r}, which every sentence shares.",
        f"Base `{inputs.base.record.name}` under the run's warm-up adapter, r = {inputs.recipe.lora.rank}, "
        f"full-dimensional gradients; embeddings of {inputs.encoder.name}, mean pooled.",
    ]
    return Exhibit(
        "figure4",
        "Figure 4: gradient against embedding similarity",
        [table],
        figures,
        notes,
        picture=_scatter(texts, similarity, score),
        seeds=(seed,),
    )


def _as_instructions(inputs: Inputs, sentences: Sequence[str]) -> list[TokenRow]:
    whole = [
        prompt_ids(inputs.tokenizer, ({"role": "user", "content": content},))
        for content in (*sentences, *_UNLIKE)
    ]
    head, tail = _shared(whole), _shared([ids[::-1] for ids in whole])
    rows = []
    for sentence, ids in zip(sentences, whole, strict=False):
        ids = ids[: len(ids) - tail]
        if len(ids) > inputs.base.max_positions or len(ids) <= head:
            raise EvidenceError(
                f"The sentence {sentence[:60]!r} is empty or too long for the base. Take it out."
            )
        rows.append(TokenRow(sentence, None, sentence, ids, max(1, head)))
    return rows


def _shared(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens that all of them begin with: what the template puts there."""
    count = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count


def _as_answers(inputs: Inputs, sentences: Sequence[str]) -> list[TokenRow]:
    rows = []
    for sentence in sentences:
        row = Row(sentence, ({"role": "user", "content": _REQUEST},), sentence)
        rendered = render(inputs.tokenizer, row, inputs.recipe.router.routed_text, inputs.base.max_positions)
        if not isinstance(rendered, TokenRow):
            raise EvidenceError(
                f"The sentence {sentence[:60]!r} can't be used: {rendered.reason}. Take it out."
            )
        rows.append(rendered)
    return rows


def _gradient_cosines(run: Run, store: StageStore, name: str, rows: Sequence[TokenRow]) -> Numbers:
    """Cosines [P] of the rows' gradients, two and two."""
    warmup = run.warmup

    def work(folder: Path) -> dict[str, Any]:
        cosines: list[float] = []
        with (
            row_gradients(run.inputs, warmup) as source,
            store.narrator.bar("gradients", len(rows), "sentences") as advance,
        ):
            for start in range(0, len(rows), 64):
                gradients = source.whole(rows[start : start + 64], advance)  # [p, d]
                make_unit_(gradients)
                cosines += _cosines(gradients).tolist()
        return {"cosines": cosines}

    depends_on = {"warmup": warmup.digest, "rows": [row.parts for row in rows]}
    title = f"Gradients of {len(rows):,} sentences, {name}"
    done = store.run(Stage(f"sentences-{name.replace(' ', '-')}", title, depends_on), work)
    return np.asarray(done.facts["cosines"])


def _cosines(vectors: torch.Tensor) -> Numbers:
    """Cosines [n / 2] of vectors [n, d], the first with the second, the third with the fourth."""
    pairs = torch.nn.functional.normalize(vectors.double(), dim=1)
    return (pairs[0::2] * pairs[1::2]).sum(1).cpu().numpy()


def _correlation(of: str, with_: str, one: Numbers, other: Numbers, seed: int) -> dict[str, Any]:
    """Pearson's and Spearman's correlation of similarities [P], each with a 95 % interval."""
    draws = np.random.default_rng(seed).integers(len(one), size=(_RESAMPLES, len(one)))  # [R, P]
    draws[0] = np.arange(len(one))  # the pairs themselves come first
    found: dict[str, Any] = {"of": of, "with": with_}
    left, right = one[draws], other[draws]
    for name, pair in (
        ("pearson", (left, right)),
        ("spearman", (rankdata(left, axis=1), rankdata(right, axis=1))),
    ):
        values = pearsonr(*pair, axis=1).statistic  # [R]
        low, high = np.nanquantile(values[1:], [0.025, 0.975])  # a draw of equal values has none
        found[name] = {"value": float(values[0]), "low": float(low), "high": float(high)}
    return found


def _figure(found: dict[str, float]) -> str:
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]"


def _scatter(texts: Numbers, similarity: dict[str, Numbers], score: Numbers) -> Figure:
    figure = canvas(8.0, 3.4, panels=2)
    for axes, (name, cosines) in zip(figure.axes, similarity.items(), strict=True):
        dots = axes.scatter(texts, cosines, c=score, cmap="viridis", s=11, alpha=0.8, linewidths=0)
        r = pearsonr(texts, cosines).statistic
        axes.set_title(f"sentence {name}: Pearson {r:+.2f}", fontsize=10, loc="left")
        axes.set_xlabel("cosine of embeddings")
    figure.axes[0].set_ylabel("cosine of gradients")
    figure.colorbar(dots, ax=figure.axes, label="people's score, 0 to 5", aspect=30)
    return figure
