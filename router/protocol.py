"""What every router can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Answer(NamedTuple):
    """What a router says of one text."""

    probabilities: NDArray[np.float32]
    """`[K]`."""
    unfamiliar: bool
    """Nothing in training was like it: the probabilities are of experts that never saw its kind."""


@dataclass(frozen=True)
class Answers:
    """What a router says of n texts: `[n, K]`, rows sum to one, and which are unlike anything in training `[n]`."""

    probabilities: NDArray[np.float32]
    unfamiliar: NDArray[np.bool_]

    @classmethod
    def of_nothing(cls, texts: int, labels: int) -> Answers:
        """Return room for the answers of so many texts."""
        return cls(np.zeros((texts, labels), np.float32), np.zeros(texts, dtype=bool))

    def put(self, places: int | Sequence[int] | NDArray[np.intp], answer: Answer | Answers) -> None:
        """Write one text's answer, or those of as many as there are places."""
        self.probabilities[places] = answer.probabilities
        self.unfamiliar[places] = answer.unfamiliar

    def one(self, place: int) -> Answer:
        """Return the answer of one text."""
        return Answer(self.probabilities[place], bool(self.unfamiliar[place]))


class Router(Protocol):
    """Section 5.4.2: a distribution over the K experts for each text."""

    labels: tuple[str, ...]
    """The K experts' names; column k of `probabilities` is `labels[k]`."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return `[n, K]`; each row sums to one. The texts may be empty, and there may be none."""

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the probabilities, and which texts are unfamiliar: none, for a router that can't tell."""
        return Answers(self.probabilities(texts), np.zeros(len(texts), dtype=bool))
