"""The headers that every answer carries: the service's contract with clients, constants in one place.

The first two stand on every answer of the port; the rest on every answer for which an expert was decided
(streams and errors too). For a list of prompts EXPERT, CONFIDENCE and REASON are lists in prompt order.
"""

from __future__ import annotations

REQUEST_ID = "x-request-id"
"""The client's, or made here; the engine's log and the answer's id carry it too."""
BUNDLE = "x-gradientspace-bundle"
"""Twelve hex digits that change with anything in the bundle."""
EXPERT = "x-gradientspace-expert"
"""Who answered: `expert-3`, `fallback`, or the base model's name."""
CONFIDENCE = "x-gradientspace-confidence"
"""The router's calibrated probability of the expert it chose; 1 if named, 0 if the router failed."""
REASON = "x-gradientspace-reason"
"""Why that expert: `routed`, `named`, `unfamiliar`, `low_confidence`, `no_gain` or `router_error`."""
ROUTER_MS = "x-gradientspace-router-ms"
"""What routing cost this request, in milliseconds; 0 if an expert was named."""

ON_EVERY_ANSWER = (REQUEST_ID, BUNDLE)
ON_EVERY_DECISION = (EXPERT, CONFIDENCE, REASON, ROUTER_MS)
