"""Routed cosine of clusters by K, start and weight, on unseen rows: `python -m benchmarks.readable_clusters --help`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from evaluation.evidence.gradient_cosines import gradient_cosines
from evaluation.seed.drawn_rows import draw_rows, write_records
from training.clusters.readable import in_folds
from training.clusters.readable_start import readable_clusters
from training.clusters.spherical_kmeans import centroid_cosines, spectrum_of, spherical_kmeans
from training.models.base_model import find_base
from training.progress import Narrator
from training.recipe import Recipe, read_recipe
from training.router.head import fit_head
from training.rows.rendering import use_chat_template
from training.run import Run
from training.stages.inputs import read_inputs
from training.stages.processes import World
from training.stages.store import StageStore

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

_WEIGHTS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Rows:
    """All rows: cosines of gradients [M, M], embeddings [M, H], texts and sources [M], and which are unseen [M]."""

    cosines: Matrix
    embeddings: NDArray[np.float32]
    texts: list[str]
    sources: NDArray[np.str_]
    unseen: NDArray[np.bool_]


class Judge:
    """Measures partitions of the seen rows on the unseen ones."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        seen, unseen = np.flatnonzero(~rows.unseen), np.flatnonzero(rows.unseen)
        self.gram = np.ascontiguousarray(rows.cosines[np.ix_(seen, seen)])
        self.to_unseen = np.ascontiguousarray(rows.cosines[np.ix_(unseen, seen)])
        self.seen, self.unseen = rows.embeddings[seen], rows.embeddings[unseen]
        self.sources = rows.sources[seen]
        self.prompts = in_folds(self.seen, range(len(seen)), [rows.texts[row] for row in seen], 0)
        self.spectrum = spectrum_of(self.gram)

    def told(self, labels: Labels, k: int) -> str:
        """Routed cosine, the router's agreement with the nearest centroid, the adjusted Rand index with the sources."""
        cosines = centroid_cosines(self.to_unseen, self.gram, labels, k)  # [u, k]
        routes = fit_head(self.seen, labels, k, 0).logits(self.unseen).argmax(1)
        routed = cosines[np.arange(len(routes)), routes].mean()
        agrees = (routes == cosines.argmax(1)).mean()
        return f"{routed:.4f} {agrees:4.0%} {adjusted_rand_score(self.sources, labels):.2f}"

    def lines(self, k: int) -> list[str]:
        """A line for each way to K clusters."""
        starts = {
            "gradients": spherical_kmeans(self.gram, self.spectrum, k, 5, 0),
            "text": KMeans(k, n_init=10, random_state=0).fit(self.seen).labels_.astype(np.int64),
        }
        lines = [f"{k} | {name} | | {self.told(labels, k)}" for name, labels in starts.items()]
        for weight in _WEIGHTS:
            for name, start in starts.items():
                labels = readable_clusters(
                    self.gram, start, k, lambda now: self.prompts.log_chances(now, k), weight
                )
                lines.append(f"{k} | {name} | {weight} | {self.told(labels, k)}")
        return lines


def measured(recipe: Recipe, first: int, per_source: int, unseen: int) -> Rows:
    """Draw rows of each file from row `first` on, warm up an adapter on some, and take all their gradients."""
    assert recipe.output is not None
    narrator, folder = Narrator(), recipe.output
    tokenizer = find_base(recipe.base).tokenizer()
    use_chat_template(tokenizer, recipe.base.chat_template)
    files, most = recipe.data.files, recipe.data.max_length
    drawn = draw_rows(files, first, per_source + unseen, 0, recipe, tokenizer, most).rows
    write_records(folder / "rows.jsonl", drawn)
    data = recipe.data.model_copy(update={"files": (str(folder / "rows.jsonl"),)})
    inputs = read_inputs(recipe.model_copy(update={"data": data}), narrator)
    store = StageStore(folder / "stages", narrator, World())
    with Run(inputs, store) as run:
        cosines = gradient_cosines(inputs, store, run.warmup, [row.row for row in drawn]).cosines
    taken: dict[str, int] = {}
    late = []
    for row in drawn:
        taken[row.source] = taken.get(row.source, 0) + 1
        late.append(taken[row.source] > per_source)
    texts = [row.row.routed_text for row in drawn]
    embeddings = inputs.encoder.embed(texts, recipe.router.max_tokens)
    return Rows(cosines, embeddings, texts, np.array([row.source for row in drawn]), np.array(late))


def main() -> None:
    """Take rows, base and sizes from the command line, print the table."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--base-model", required=True)
    ask.add_argument("--data", action="append", required=True)
    ask.add_argument("--output", type=Path, required=True)
    ask.add_argument("--first", type=int, default=2001)
    ask.add_argument("--per-source", type=int, default=240)
    ask.add_argument("--unseen", type=int, default=80)
    ask.add_argument("--ks", default="2,3,4,5,6,8")
    ask.add_argument("--set", action="append", default=[], dest="settings")
    given = ask.parse_args()
    values = {"base.model": given.base_model, "data.files": given.data, "output": str(given.output)}
    recipe = read_recipe(None, values, given.settings)
    judge = Judge(measured(recipe, given.first, given.per_source, given.unseen))
    one = centroid_cosines(judge.to_unseen, judge.gram, np.zeros(len(judge.seen), dtype=np.int64), 1)
    names, by_source = np.unique(judge.sources, return_inverse=True)
    print("K | start | readable | routed cosine, router agrees, index with the sources")
    print(f"1 | | | {one.mean():.4f}")
    print(f"{len(names)} | sources | | {judge.told(by_source.astype(np.int64), len(names))}")
    for k in map(int, given.ks.split(",")):
        for line in judge.lines(k):
            print(line, flush=True)


if __name__ == "__main__":
    main()
