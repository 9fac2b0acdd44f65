"""How many clusters, and where they start (section 5.3.1): the paper's rule, and one of ours beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.clusters.probe_halves import Halves, Start, split_in_halves, text_clusters
from training.clusters.readable import Prompts
from training.clusters.readable_start import readable_clusters
from training.clusters.silhouette_grid import Candidate, GridPoint, best_of, lift_weights, silhouette_grid
from training.clusters.spherical_kmeans import (
    Labels,
    Matrix,
    Spectrum,
    member_weights,
    spectrum_of,
    spherical_kmeans,
)
from training.errors import RecipeError
from training.recipe import ClustersSection

_SPLITS = 20  # of the probe into random halves
_ROWS_PER_CLUSTER = 4  # so that a cluster can have two rows in each half of the probe
_AHEAD = 0.9  # share of the splits in which a K must beat its neighbour to be told from it


@dataclass(frozen=True)
class ClusterStart:
    """The chosen K and the start of its centroids."""

    k: int
    rule: str
    start: Start
    components: int
    grid: tuple[GridPoint, ...]
    singular_values: tuple[float, ...]
    weights: Tensor  # [n, K] float64: centroid k in R^d is the sum over rows i of weights[i, k] * g_i
    probe_labels: tuple[int, ...]  # [n], of the probe's rows at the start
    halves: Halves | None  # none: K was given, or nothing was known to judge it by
    distinguishable: bool | None
    warnings: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return what the report says of the choice.

        `halves` holds, per K, the mean over random halves of the probe and its 5 % and 95 % quantiles of the
        silhouette, of the routed cosine (`routed`, and `text` of K-means on prompts) and of the agreement between the
        halves, the better start of readable clusters, and in which
        share of the splits this K had the highest silhouette (`won.paper`) and routed cosine (`won.routed`).
        """
        energy = np.square(self.singular_values)
        return {
            "k": self.k,
            "rule": self.rule,
            "start": self.start,
            "components": self.components,
            "grid": [asdict(point) for point in self.grid],
            "singular_values": list(self.singular_values),
            "first_direction_share": float(energy[0] / energy.sum()),
            "halves": None if self.halves is None else _spread(self.halves),
            "distinguishable": self.distinguishable,
            "warnings": list(self.warnings),
        }


def choose_clusters(
    gram: Tensor, section: ClustersSection, seed: int, prompts: Prompts | None = None
) -> ClusterStart:
    """Choose K on the probe, and say where its centroids start.

    `gram` [n, n] are the cosines of the probe's gradients, `prompts` [n] its prompts; without them K is not judged, so
    it must be given, or the paper's rule, and `clusters.readable` must be 0.

    Rule `routed`: the smallest K, one cluster among them, whose routed cosine (`training.clusters.probe_halves`) is
    within one standard error of the highest, and the centroids of spherical K-means on whole gradients, or of K-means
    on prompts where readable clusters that start there have the higher routed cosine.
    Rule `paper`: the highest silhouette over thresholds x K, and K-means' centroids in that subspace, lifted.
    Either way the other rule's figures are taken too, and readable clusters are settled on the probe. Of the gradients
    nothing but cosines enters, so V of G = U S V^T is never formed.

    Raises:
        RecipeError: the probe has too few rows for the range of K.
        ValueError: rule `routed` is to choose, but there are no prompts.

    """
    _refuse_small_probe(gram.shape[0], section)
    cosines = gram.double().cpu().numpy()
    spectrum = spectrum_of(cosines)
    ks = [section.k] if section.k is not None else list(range(max(2, section.k_min), section.k_max + 1))
    candidates = silhouette_grid(cosines, spectrum, ks, section.thresholds, section.n_init, seed)
    halves = None
    if section.k is None and prompts is not None:
        halves = split_in_halves(cosines, prompts, ks, section.thresholds, _SPLITS, seed, section.readable)
    k = _choice_of(section, candidates, halves)
    first = _first_clusters(cosines, spectrum, candidates, k, section, seed)
    begun: Start = "gradients"
    if section.readable and k > 1 and prompts is not None:
        if section.rule == "routed" and halves is not None:
            begun = halves.starts[halves.ks.index(k)]
        labels = first.labels
        if begun == "text":
            labels = text_clusters(prompts.embeddings[prompts.rows], k, section.n_init, seed)
        labels = readable_clusters(
            cosines, labels, k, lambda now: prompts.log_chances(now, k), section.readable
        )
        first = _First(first.components, member_weights(labels, k), labels)
    distinguishable, warnings = (None, []) if halves is None else _judge(halves, k, len(cosines))
    return ClusterStart(
        k=k,
        rule=section.rule,
        start=begun,
        components=first.components,
        grid=tuple(candidate.point for candidate in candidates),
        singular_values=tuple(float(value) for value in np.sqrt(spectrum.energies)),
        weights=torch.from_numpy(first.weights),
        probe_labels=tuple(int(label) for label in first.labels),
        halves=halves,
        distinguishable=distinguishable,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _First:
    """The directions used, the lift [n, K] and the labels [n] of the first clusters."""

    components: int
    weights: Matrix
    labels: Labels


def _choice_of(section: ClustersSection, candidates: Sequence[Candidate], halves: Halves | None) -> int:
    if section.k is not None:
        return section.k
    match section.rule:
        case "paper":
            return best_of(candidates).point.k
        case "routed":
            if halves is None:
                raise ValueError("Without embeddings of the prompts no K can be chosen by rule 'routed'")
            return routed_choice(halves, section.k_min)


def _refuse_small_probe(n: int, section: ClustersSection) -> None:
    remedy = "Raise split.probe_at_least (and give more rows, if there are none left for it)"
    if section.k is not None:
        if n <= section.k:
            raise RecipeError(
                f"The probe's {n} rows are too few for K = {section.k}. {remedy}, or lower clusters.k."
            )
        return
    needed = _ROWS_PER_CLUSTER * section.k_max
    if n < needed:
        raise RecipeError(
            f"The probe's {n} rows are too few to try up to K = {section.k_max} clusters on: at least {needed} are "
            f"needed, {_ROWS_PER_CLUSTER} per cluster. {remedy}, lower clusters.k_max, or fix clusters.k."
        )


def routed_choice(halves: Halves, k_min: int) -> int:
    """The smallest K, 1 if it may be, not behind the best by more than one standard error (as CART prunes trees).

    The spread of the difference over the splits stands for its standard error; docs/measurements/cluster-count.md
    compares it with what other probes give.
    """
    ks, routed = halves.ks, halves.routed  # [S, K]
    if k_min == 1:
        ks, routed = (1, *ks), np.column_stack([halves.one_cluster, routed])
    best = int(routed.mean(0).argmax())
    behind = routed[:, [best]] - routed  # [S, K]
    as_good = behind.mean(0) <= behind.std(0, ddof=1)  # the best itself among them: 0 <= 0
    return ks[int(as_good.argmax())]


def _first_clusters(
    cosines: Matrix,
    spectrum: Spectrum,
    candidates: Sequence[Candidate],
    k: int,
    section: ClustersSection,
    seed: int,
) -> _First:
    match section.rule:
        case "paper":
            best = best_of([candidate for candidate in candidates if candidate.point.k == k])
            return _First(best.point.components, lift_weights(best, spectrum), best.labels)
        case "routed":
            labels = spherical_kmeans(cosines, spectrum, k, section.n_init, seed)
            return _First(min(k, len(spectrum.energies)), member_weights(labels, k), labels)


def _judge(halves: Halves, k: int, n: int) -> tuple[bool, list[str]]:
    """Whether K is told from its neighbours, and what to warn of."""
    routed = {1: halves.one_cluster} | {
        tried: halves.routed[:, place] for place, tried in enumerate(halves.ks)
    }
    splits, own = len(halves.one_cluster), routed[k]
    best = halves.ks[int(halves.routed.mean(0).argmax())]
    told, warnings = True, []
    if k == 1:
        warnings.append(
            f"Don't split: the cosine of an unseen row with the centroid it is routed to is {_figure(own)} with one "
            f"cluster, and the best of the larger K, {best}, is not ahead of it by more than its spread "
            f"({_figure(routed[best])}). One adapter is trained on all rows (clusters.k_min=2 splits all the same)."
        )
    for other in sorted({k - 1, k + 1, best} & set(routed) - {k}):
        ahead = int((own > routed[other]).sum())
        behind = ahead <= (1 - _AHEAD) * splits
        if ahead >= _AHEAD * splits or (abs(other - k) > 1 and not behind):
            continue
        told = False
        remedy = (
            "clusters.rule=routed chooses by this cosine"
            if behind
            else f"Take a larger probe (split.probe_at_least; this one has {n} rows)"
        )
        warnings.append(
            f"K = {k} is {'worse than' if behind else 'not distinguishable from'} "
            f"{'one cluster' if other == 1 else f'K = {other}'}: the cosine of an unseen row with the centroid it is "
            f"routed to is {_figure(own)} against {_figure(routed[other])}, and K = {k} is ahead in {ahead} of "
            f"{splits} random splits of the probe. {remedy}, or fix clusters.k."
        )
    if k == max(halves.ks):
        warnings.append(
            f"K = {k} is the largest that was tried: raise clusters.k_max to see whether more are better."
        )
    return told, warnings


def _figure(values: Matrix) -> str:
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


def _spread(halves: Halves) -> dict[str, Any]:
    measures = {
        "silhouette": halves.silhouettes,
        "routed": halves.routed,
        "text": halves.text,
        "agreement": halves.agreement,
    }
    won = {"paper": halves.silhouettes.argmax(1), "routed": halves.routed.argmax(1)}  # [S]
    return {
        "splits": len(halves.one_cluster),
        "one_cluster": _quantiles(halves.one_cluster),
        "by_k": [
            {"k": k, "start": halves.starts[place]}
            | {name: _quantiles(values[:, place]) for name, values in measures.items()}
            | {"won": {rule: float((places == place).mean()) for rule, places in won.items()}}
            for place, k in enumerate(halves.ks)
        ],
    }


def _quantiles(values: Matrix) -> dict[str, float]:
    low, high = np.quantile(values, [0.05, 0.95])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}
