"""What was measured in a window, and what many windows say together. No server and no clock in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import numpy as np
from scipy.stats import bootstrap

CONTENDERS = ("vllm", "named", "routed", "base", "ensemble")
STREAMS = ("vllm_streams", "named_streams")
_RESAMPLES = 500
PROCESSES = ("engine", "api", "client", "idle_server", "others")

Figures = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """A fixed amount of work by one contender: `requests` of them, by `clients` that each wait for an answer."""

    contender: str
    clients: int
    seconds: float
    latencies: tuple[float, ...]
    """Seconds of each request."""
    cpu: Mapping[str, float]
    """CPU seconds of each of `PROCESSES` meanwhile."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds


@dataclass(frozen=True)
class SamePrompt:
    """One prompt asked two or three times in a row by one of several clients that all do so; seconds of each.

    By the expert's name; routed; and, by a client that is alone, by name after a pause as long as that routing took,
    counted from the end of the pause. Beside others a pause also changes in which batch one is answered.
    """

    named: float
    routed: float
    paused: float | None
    router_ms: float
    """What the service says that routing cost."""


def there_and_back(contenders: Sequence[str]) -> tuple[str, ...]:
    """Return the order of one round: A B B A, so that a machine that slows down steadily favours nobody."""
    return (*contenders, *reversed(contenders))


def turns_within(seconds: float, one_turn: float, passes: int) -> int:
    """Return how many turns of every client fill a window; a turn of `passes` requests takes that much longer."""
    return max(1, round(seconds / (one_turn * passes)))


def pick(windows: Sequence[Window], contender: str, clients: int) -> list[Window]:
    """Return a contender's windows in the order they were measured."""
    return [window for window in windows if (window.contender, window.clients) == (contender, clients)]


def pair_ratios(windows: Sequence[Window], over: str, under: str, clients: int) -> list[float]:
    """Return the ratio of two contenders' rates for each pass: what one pass disturbed, it disturbed for both."""
    pairs = zip(pick(windows, over, clients), pick(windows, under, clients), strict=True)
    return [one.rate / other.rate for one, other in pairs]


def spread(values: Sequence[float]) -> Figures:
    """Return the median, the quartiles and the count of what was measured."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": median(values), "quartiles": [low, high], "pairs": len(values)}


def p50_ms(windows: Sequence[Window]) -> float:
    """Return the median latency of all requests of the windows."""
    return 1000 * median(seconds for window in windows for seconds in window.latencies)


def routing_figures(asked: Sequence[SamePrompt]) -> Figures:
    """Return what routing adds to a request, in milliseconds; where it is a median of differences, with its interval.

    `pause_ms` is what a pause of the router's length adds though nobody routes, and `beyond_pause_ms` what routing
    adds beyond its own time to a request that paused as long: an engine that waits answers slower, whatever it waits
    for. None where nobody paused.
    """
    paused = [(one, one.paused) for one in asked if one.paused is not None]
    beyond_pause = [1000 * (one.routed - pause) - one.router_ms for one, pause in paused]
    return {
        "routed_minus_named_p50_ms": 1000
        * (median(one.routed for one in asked) - median(one.named for one in asked)),
        "router_p50_ms": median(one.router_ms for one in asked),
        "beyond_router_ms": _median([1000 * (one.routed - one.named) - one.router_ms for one in asked]),
        "pause_ms": _median([1000 * (pause - one.named) for one, pause in paused]) if paused else None,
        "beyond_pause_ms": _median(beyond_pause) if paused else None,
        "prompts": len(asked),
    }


def _median(values: Sequence[float]) -> Figures:
    """The median, and the 95 % interval that resampling gives it."""
    middle = median(values)
    if len(values) == 1:
        return {"median": middle, "low": middle, "high": middle}
    found = bootstrap((values,), np.median, n_resamples=_RESAMPLES, method="percentile", rng=0)
    return {
        "median": middle,
        "low": float(found.confidence_interval.low),
        "high": float(found.confidence_interval.high),
    }


def cpu_ms_per_request(windows: Sequence[Window]) -> dict[str, float]:
    """Return the CPU time of each process per request of these windows."""
    requests = sum(len(window.latencies) for window in windows)
    return {name: 1000 * sum(window.cpu[name] for window in windows) / requests for name in PROCESSES}


def busy_cores(windows: Sequence[Window]) -> dict[str, float]:
    """Return how many cores each process kept busy in these windows."""
    seconds = sum(window.seconds for window in windows)
    return {name: sum(window.cpu[name] for window in windows) / seconds for name in PROCESSES}


def figures(windows: Sequence[Window], asked: Mapping[int, Sequence[SamePrompt]]) -> Figures:
    """Return the record of all windows, and of the prompts asked both ways by number of clients.

    Of the figures that differ by the number of clients, the ones at the top are: `named_over_vllm`, the lowest;
    the two of the router, those of a single client, who waits for nobody but the router. All stand in `by_clients`.
    """
    counts = sorted({window.clients for window in windows})
    by_clients = {str(clients): _of(windows, clients) | routing_figures(asked[clients]) for clients in counts}
    alone = by_clients[str(counts[0])]
    return {
        "requests_per_s": {
            str(clients): {name: _rate(windows, name, clients) for name in CONTENDERS} for clients in counts
        },
        "named_over_vllm": min(found["named_over_vllm"]["median"] for found in by_clients.values()),
        "routed_minus_named_p50_ms": alone["routed_minus_named_p50_ms"],
        "router_p50_ms": alone["router_p50_ms"],
        "streams_per_s": {
            str(clients): {name.removesuffix("_streams"): _rate(windows, name, clients) for name in STREAMS}
            for clients in counts
        },
        "by_clients": by_clients,
    }


def _of(windows: Sequence[Window], clients: int) -> Figures:
    return {
        "named_over_vllm": spread(pair_ratios(windows, "named", "vllm", clients)),
        "named_over_vllm_streams": spread(pair_ratios(windows, "named_streams", "vllm_streams", clients)),
        "named_over_base": spread(pair_ratios(windows, "named", "base", clients)),
        "routed_over_named": spread(pair_ratios(windows, "routed", "named", clients)),
        "ensemble_over_routed": spread(pair_ratios(windows, "ensemble", "routed", clients)),
        "p50_ms": {name: p50_ms(pick(windows, name, clients)) for name in (*CONTENDERS, *STREAMS)},
        "cpu_ms_per_request": {
            name: cpu_ms_per_request(pick(windows, name, clients)) for name in (*CONTENDERS, *STREAMS)
        },
        "busy_cores": {name: busy_cores(pick(windows, name, clients)) for name in (*CONTENDERS, *STREAMS)},
    }


def _rate(windows: Sequence[Window], contender: str, clients: int) -> float:
    return median(window.rate for window in pick(windows, contender, clients))
