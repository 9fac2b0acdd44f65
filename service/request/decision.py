"""Who answers: the named target, or the expert that the router chooses for each text."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from router.policy import Policy
from router.threaded import Routed
from service import headers
from service.request.names import ModelNames, Target

Reason = Literal["routed", "named", "unfamiliar", "low_confidence", "no_gain", "router_error"]
LISTED_PROMPTS = 128  # ours: about 3 KB of headers, below what proxies and Node take (4 to 16 KB)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """Who answers one text, and why."""

    target: Target
    reason: Reason
    confidence: float
    probabilities: tuple[float, ...] = ()
    """Over the router's K labels; empty if it did not run or failed."""
    choice: str | None = None
    """The router's most probable label, also where the fallback answers instead."""


@dataclass(frozen=True)
class Decided:
    """The decisions of one request, in prompt order, and what they cost."""

    decisions: tuple[Decision, ...]
    router_seconds: float
    remembered: int = 0
    """Texts whose routing was remembered."""
    linear: int = 0
    """Texts that a cascade's linear model routed."""

    @property
    def by_target(self) -> dict[Target, list[int]]:
        """Which prompts (by their place) each target answers."""
        places: dict[Target, list[int]] = {}
        for place, decision in enumerate(self.decisions):
            places.setdefault(decision.target, []).append(place)
        return places

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The decision headers of the answer; lists longer than LISTED_PROMPTS are left out."""
        cost = (headers.ROUTER_MS, f"{1000 * self.router_seconds:.2f}")
        if len(self.decisions) > LISTED_PROMPTS:
            return [cost]
        return [
            (headers.EXPERT, ",".join(decision.target.name for decision in self.decisions)),
            (headers.CONFIDENCE, ",".join(f"{decision.confidence:.4f}" for decision in self.decisions)),
            (headers.REASON, ",".join(decision.reason for decision in self.decisions)),
            cost,
        ]


class TextRouter(Protocol):
    """What decides with: `router.served.ServedRouter`."""

    def at_once(self, text: str) -> Routed | None:
        """Return the answer of a text that waits for nothing; None: it is for `route`."""

    def route(self, texts: Sequence[str], since: float | None = None) -> Awaitable[Routed]:
        """Return `[n, K]` probabilities and the seconds they took, `since` `at_once` was asked, if it was."""


class Decider:
    """Turns names and probabilities into decisions. It never fails a request."""

    def __init__(self, names: ModelNames, router: TextRouter, policy: Policy) -> None:
        """`names` and `policy` are of one bundle, and so is the router."""
        self.names = names
        self._router = router
        self._policy = policy

    def named(self, target: Target, prompts: int = 1) -> Decided:
        """Return the decisions of a request that names its target, one for each of its prompts."""
        return Decided((Decision(target, "named", 1.0),) * prompts, 0.0)

    def at_once(self, text: str) -> Decided | None:
        """Return the decision of a text that waits for nothing; None: it is for `routed`."""
        try:
            routed = self._router.at_once(text)
            return None if routed is None else self._decided([text], routed)
        except Exception:
            return self._failed([text])

    async def routed(self, texts: Sequence[str], since: float | None = None) -> Decided:
        """Return one decision per text; `since` (perf_counter) `at_once` was asked for them and gave None."""
        try:
            return self._decided(texts, await self._router.route(texts, since))
        except Exception:
            return self._failed(texts)

    def _decided(self, texts: Sequence[str], routed: Routed) -> Decided:
        probabilities = np.asarray(routed.probabilities, dtype=np.float64)  # [n, K]
        expected = (len(texts), len(self.names.labels))
        if probabilities.shape != expected or not np.isfinite(probabilities).all():
            raise ValueError(f"the router gave {probabilities.shape} for {expected}, or not finite")
        rows = zip(probabilities, routed.unfamiliar, strict=True)
        decisions = tuple(self._choose(row, bool(unfamiliar)) for row, unfamiliar in rows)
        return Decided(decisions, routed.seconds, routed.remembered, routed.linear)

    def _failed(self, texts: Sequence[str]) -> Decided:
        """A router is a model: whatever it raises, the request is served, by the fallback."""
        _log.exception("The router failed; the fallback answers")
        return Decided((Decision(self.names.fallback, "router_error", 0.0),) * len(texts), 0.0)

    def _choose(self, row: np.ndarray, unfamiliar: bool) -> Decision:
        """Argmax of one row `[K]`, and whether its expert answers or another."""
        best = int(row.argmax())
        confidence = float(row[best])
        label, expert = self.names.labels[best]
        reason = self._policy.verdict(best, confidence, unfamiliar)
        target = self.names.fallback
        if reason == "routed" and expert is not None:
            target = expert
        elif reason == "unfamiliar" and self._policy.unfamiliar == "base":
            target = self.names.base
        return Decision(target, reason, confidence, tuple(float(probability) for probability in row), label)
