"""What the base and every adapter say to a few fixed prompts: recorded in training, reproduced in the engine.

Checksums prove that files are whole. Only this proves that the engine computes with them what training did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

FINGERPRINTS_FILE = "fingerprints.json"
TOP_TOKENS = 20
BASE = "the base model"
"""The name of the base's fingerprint; no adapter's name has a space."""

_TOLERANCES = {"float32": 0.01}  # ours, in nats, measured: docs/measurements/fingerprints.md
_TOLERANCE_OF_SHORT_FLOATS = 0.1
SURE_TOLERANCES = 3
"""How many tolerances what one engine says must be apart for another to be held to the difference."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FixedPrompt(_Record):
    """A prompt as it stood in the chat template when it was recorded, and what the tokenizer made of it."""

    text: str
    token_ids: tuple[int, ...] = Field(min_length=1)


class TopTokens(_Record):
    """The likeliest next tokens after a prompt, likeliest first."""

    token_ids: tuple[int, ...] = Field(min_length=1, max_length=TOP_TOKENS)
    logprobs: tuple[float, ...] = Field(description="natural logarithms, in the order of the tokens")

    @model_validator(mode="after")
    def _each_token_has_its_logprob(self) -> TopTokens:
        if len(self.token_ids) != len(self.logprobs) or len(set(self.token_ids)) != len(self.token_ids):
            raise ValueError("logprobs: every token needs one, and no token stands twice")
        return self


Fingerprint = tuple[TopTokens, ...]
"""One entry per fixed prompt."""


class GreedyAnswer(_Record):
    """An adapter's greedy answer to one of the fixed prompts, up to and with the token that ends it."""

    prompt: int = Field(ge=0, description="its place among the prompts")
    token_ids: tuple[int, ...] = Field(min_length=1)
    shown: int = Field(ge=0, description="its first tokens, which a client sees; the others are how it ends")

    @model_validator(mode="after")
    def _it_ends(self) -> GreedyAnswer:
        if self.shown >= len(self.token_ids):
            raise ValueError(f"shown: {self.shown} of {len(self.token_ids)} tokens, so none of them ends it")
        return self


class Fingerprints(_Record):
    """The whole of `fingerprints.json`."""

    prompts: tuple[FixedPrompt, ...] = Field(min_length=1)
    base: Fingerprint
    adapters: dict[str, Fingerprint] = Field(description="by the adapter's name, the fallback's too")
    answers: dict[str, GreedyAnswer] = Field(
        default_factory=dict,
        description="by the adapter's name; those whose answer came to an end that is sure",
    )

    @model_validator(mode="after")
    def _each_answers_every_prompt(self) -> Fingerprints:
        for name, fingerprint in self.all.items():
            if len(fingerprint) != len(self.prompts):
                raise ValueError(
                    f"adapters: {name} has {len(fingerprint)} entries for {len(self.prompts)} prompts"
                )
        for name, answer in self.answers.items():
            if name not in self.adapters or answer.prompt >= len(self.prompts):
                raise ValueError(f"answers: {name} is of no adapter, or to no prompt")
        return self

    @property
    def all(self) -> dict[str, Fingerprint]:
        """Every fingerprint by name, the base's under `BASE`."""
        return {BASE: self.base, **self.adapters}

    def alike(self, dtype: str) -> list[tuple[str, str, float]]:
        """Return the pairs that the engine could not be held to tell apart, and how far apart they are.

        Two engines may each be off by the tolerance, so a pair has to be three tolerances apart.
        """
        return [pair for pair in pairs(self.all) if pair[2] <= SURE_TOLERANCES * tolerance(dtype)]

    def warnings(self, dtype: str) -> list[str]:
        """Return a sentence for every pair in `alike`."""
        return [
            f"{one} and {other} say nearly the same to the fixed prompts: {far:.3g} nats apart, and it takes "
            f"{SURE_TOLERANCES * tolerance(dtype):.3g} to tell them apart. Were one served in the other's place, "
            "nobody would notice"
            for one, other, far in self.alike(dtype)
        ]

    def write(self, folder: Path) -> None:
        """Write the file into a bundle in the making."""
        (folder / FINGERPRINTS_FILE).write_text(self.model_dump_json() + "\n", encoding="utf-8")


def tolerance(dtype: str) -> float:
    """How far the engine may be from the record, in nats, for a model served in this dtype."""
    return _TOLERANCES.get(dtype, _TOLERANCE_OF_SHORT_FLOATS)


def pairs(fingerprints: Mapping[str, Fingerprint]) -> Iterator[tuple[str, str, float]]:
    """Yield every pair of names with its distance."""
    for (one, left), (other, right) in combinations(fingerprints.items(), 2):
        yield one, other, distance(left, right)


def distance(left: Fingerprint, right: Fingerprint) -> float:
    """Return how far two fingerprints are apart, in nats.

    The mean difference of the log-probabilities over the top tokens of all prompts. Rounding shows in single
    tokens and in single prompts, so the mean is what tells it from another adapter.
    """
    return sum(_distance(one, other) for one, other in zip(left, right, strict=True)) / len(left)


def _distance(left: TopTokens, right: TopTokens) -> float:
    return (_from(left, right) + _from(right, left)) / 2


def _from(left: TopTokens, right: TopTokens) -> float:
    known = dict(zip(right.token_ids, right.logprobs, strict=True))
    floor = min(right.logprobs)
    differences: Sequence[float] = [
        # A token that is not among the other's top has at most the lowest of these there.
        abs(logprob - known[token]) if token in known else max(0.0, logprob - floor)
        for token, logprob in zip(left.token_ids, left.logprobs, strict=True)
    ]
    return sum(differences) / len(differences)
