"""What the stages of Stage II left, read back: centroids, the probe's Gram matrix, the partition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import numpy as np_tensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.clusters.assignment import Assignment
from training.clusters.readable import PromptHead
from training.stages.outcome import Outcome

ASSIGNMENTS = "assignments.parquet"
_CENTROIDS = "centroids.safetensors"
_GRAM = "gram.safetensors"
_PROMPTS = "prompts.npy"
_DRAWN = "drawn.safetensors"


@dataclass(frozen=True)
class Checked(Outcome):
    """Per-row gradients were found exact: d, the factors of the gradient (name, start, stop), every check's record."""

    dimension: int
    factors: list[tuple[str, int, int]]
    checks: list[dict[str, Any]]


@dataclass(frozen=True)
class _WithCentroids(Outcome):
    """A stage that left unit centroids."""

    def centroids(self) -> Tensor:
        """Read the unit centroids [K, d]."""
        return load_file(self.folder / _CENTROIDS)["centroids"]


@dataclass(frozen=True)
class ClusterStart(_WithCentroids):
    """K, and where the centroids start.

    spectrum: what the choice of K was made from, as the report shows it. factor_shares: of the squared norm, by
    factor.
    """

    spectrum: dict[str, Any]
    factor_shares: dict[str, float]

    def gram(self) -> Tensor:
        """Read the probe's cosines [n, n] float64."""
        return load_file(self.folder / _GRAM)["gram"]

    def probe_labels(self) -> Tensor:
        """Read the clusters [n] of the probe that the centroids were made from."""
        return load_file(self.folder / _GRAM)["labels"]


@dataclass(frozen=True)
class EncodedPrompts(Outcome):
    """What the router's encoder makes of all prompts: the run's N rows, then those of `data.held_out`."""

    rows: int

    @cached_property
    def embeddings(self) -> NDArray[np.float32]:
        """Embeddings [N + n, H], left on the disk: whoever uses rows of them reads those."""
        return np.asarray(np.load(self.folder / _PROMPTS, mmap_mode="r"))


@dataclass(frozen=True)
class Drawn:
    """What is added to the cosines with the final centroids, so that prompts tell the clusters apart.

    train [n, K]: of the training rows. Any other row gets `weight` times what `head` makes of its prompt.
    """

    train: NDArray[np.float32]
    head: PromptHead
    weight: float

    def of(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what is added for rows that are no training rows, [m, K], by their embeddings [m, H]."""
        return self.weight * self.head.log_chances(embeddings)


@dataclass(frozen=True)
class Calibrated(_WithCentroids):
    """The centroids that every row is compared with: epochs as they went, whether they came to rest, the cache.

    readable: the weight of what prompts say.
    """

    epochs: list[dict[str, Any]]
    converged: bool
    cache: str
    limits: dict[str, float]
    readable: float

    @cached_property
    def drawn(self) -> Drawn | None:
        """What is added to the cosines; none where cosines alone decide."""
        if not self.readable:
            return None
        kept = np_tensors.load_file(self.folder / _DRAWN)
        return Drawn(kept["train"], PromptHead(kept["W"], kept["b"]), self.readable)


@dataclass(frozen=True)
class Assigned(Outcome):
    """The partition. clusters: its figures, as the report shows them (`training.clusters.facts.cluster_facts`).

    centroid_of_label [K]: which of the calibrated centroids is each label's; clusters are merged and ordered by size
    after their centroids were made. labels_sha256: of all labels.
    """

    clusters: dict[str, Any]
    centroid_of_label: list[int]
    labels_sha256: str

    @property
    def k(self) -> int:
        """The number of clusters that are left."""
        return len(self.centroid_of_label)

    @property
    def rows(self) -> list[int]:
        """Training rows of each cluster [K]."""
        return list(self.clusters["rows"])

    @property
    def shares(self) -> list[float]:
        """Share of the training rows of each cluster [K]."""
        return list(self.clusters["share"])

    @property
    def source_agreement(self) -> float | None:
        """Adjusted Rand index with the sources, where every row carries one."""
        agreement = self.clusters["source_agreement"]
        return None if agreement is None else float(agreement)

    @property
    def assignments(self) -> Path:
        """The file with a line for every row."""
        return self.folder / ASSIGNMENTS

    @cached_property
    def assignment(self) -> Assignment:
        """Where every row went."""
        table = pq.read_table(self.assignments)
        columns = {name: table[name].to_numpy() for name in ("cosine", "margin", "norm", "norm_share_b")}
        return Assignment(
            labels=table["label"].to_numpy(),
            centroid_of_label=tuple(self.centroid_of_label),
            warnings=tuple(self.clusters["warnings"]),
            **columns,
        )


@dataclass(frozen=True)
class OrdersCompared(Outcome):
    """How far the partitions of several orders of the rows agree (`training.clusters.row_orders`)."""

    orders: int
    rows: int
    on: str
    pairs: list[dict[str, Any]]


def write_start(folder: Path, centroids: Tensor, gram: Tensor, labels: Tensor) -> None:
    """Write what `ClusterStart` reads: unit centroids [K, d], cosines [n, n], the probe's clusters [n]."""
    write_centroids(folder, centroids)
    save_file({"gram": gram, "labels": labels}, folder / _GRAM)


def write_centroids(folder: Path, centroids: Tensor) -> None:
    """Write unit centroids [K, d]."""
    save_file({"centroids": centroids.cpu()}, folder / _CENTROIDS)


def write_prompts(folder: Path, embeddings: NDArray[np.float32]) -> None:
    """Write what `EncodedPrompts` reads."""
    np.save(folder / _PROMPTS, embeddings)


def write_drawn(folder: Path, drawn: Drawn) -> None:
    """Write what `Calibrated.drawn` reads."""
    np_tensors.save_file({"train": drawn.train, "W": drawn.head.W, "b": drawn.head.b}, folder / _DRAWN)
