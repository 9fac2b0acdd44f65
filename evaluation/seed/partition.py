"""A partition of rows, and what comes of one: the two things that every method of the comparison is made of."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ORACLE = "oracle"
"""A row goes where its response says that it belongs; nobody who asks a question could do that."""
ROUTER = "router"
"""A row goes where its prompt says that it belongs, as in the service."""
ONLY = "all"
"""There is nothing to choose: every row gets the same."""


@dataclass(frozen=True)
class Partition:
    """Clusters 0..k-1 of a `SeedRun`'s rows: `labels` [N + T], and where a router sends each row, `routes` [N + T]."""

    name: str
    labels: NDArray[np.int64]
    routes: NDArray[np.int64]
    k: int

    def members(self, rows: NDArray[np.int64], label: int) -> NDArray[np.int64]:
        """Return those of `rows` that are in this cluster."""
        return rows[self.labels[rows] == label]


@dataclass(frozen=True)
class Model:
    """The base as it is, with an adapter, or with other weights; `digest` is of all that it depends on."""

    name: str
    kind: Literal["base", "adapter", "whole"]
    folder: Path | None
    digest: str
    row_visits: int = 0


@dataclass(frozen=True)
class Fitted:
    """What a method made of the training rows.

    `weights` says, for each way of choosing, how much each model's logits count for each row: [N + T, M], rows
    sum to one. One expert is a one-hot row; an ensemble is any other. `row_visits`: rows that training saw, repeats
    counted, after the warm-up that is everybody's.
    """

    models: tuple[Model, ...]
    weights: Mapping[str, NDArray[np.float64]]
    row_visits: int

    @property
    def judged_by(self) -> str:
        """The way of choosing that choices are made by: what a served model could do."""
        return next(route for route in (ROUTER, ONLY) if route in self.weights)

    def agreement(self, rows: NDArray[np.int64]) -> float | None:
        """Return the share of rows that the router sends where the oracle does; none where rows are not sent."""
        sent = [
            route for route in (ORACLE, ROUTER) if route in self.weights and self.weights[route].max() == 1
        ]
        if len(sent) < 2:
            return None
        oracle, router = (self.weights[route][rows].argmax(1) for route in (ORACLE, ROUTER))
        return float((oracle == router).mean())

    def digest(self, rows: NDArray[np.int64]) -> str:
        """Return a digest of what the models say of these rows."""
        digest = hashlib.sha256("".join(model.digest for model in self.models).encode())
        for route in sorted(self.weights):
            digest.update(route.encode() + self.weights[route][rows].tobytes())
        return digest.hexdigest()


def alone(model: Model, rows: int) -> Fitted:
    """Return a method of one model, whatever the row."""
    return Fitted((model,), {ONLY: np.ones((rows, 1))}, model.row_visits)


def one_expert_each(partition: Partition, experts: tuple[Model, ...]) -> Fitted:
    """Return a method that asks one expert per row: its cluster's, or the router's choice."""
    each = np.eye(partition.k)  # [K, K]
    weights = {ORACLE: each[partition.labels], ROUTER: each[partition.routes]}  # [N + T, K]
    return Fitted(experts, weights, sum(expert.row_visits for expert in experts))
