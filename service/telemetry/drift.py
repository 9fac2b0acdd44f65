"""Whether requests have drifted away from the training rows: two gauges over what the router decided of late."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import nan

from prometheus_client import CollectorRegistry, Gauge

from bundle.manifest import CONFIDENCE_BINS, Manifest

WINDOW_TEXTS = 1000  # ours: on as many, chance alone moves four equal shares by about 0.02
FEWEST_TEXTS = 200  # ours: on fewer, chance alone moves them by 0.05 and more; the alert's bound too


class _Window:
    """The choices and confidences of the last texts that a bundle's router decided."""

    def __init__(self, manifest: Manifest) -> None:
        shares = list(manifest.label_shares.values())
        self._expected_shares = shares if sum(shares) else None  # all 0: nobody counted the rows
        self._expected_confidence = manifest.calibration.confidence
        self._labels = {name: label for label, name in enumerate(manifest.label_order)}
        self._texts: deque[tuple[int, int]] = deque()
        self._by_label = [0] * len(shares)
        self._by_bin = [0] * CONFIDENCE_BINS

    def observe(self, choice: str, confidence: float) -> None:
        label, place = self._labels[choice], min(int(confidence * CONFIDENCE_BINS), CONFIDENCE_BINS - 1)
        self._texts.append((label, place))
        self._by_label[label] += 1
        self._by_bin[place] += 1
        if len(self._texts) > WINDOW_TEXTS:
            label, place = self._texts.popleft()
            self._by_label[label] -= 1
            self._by_bin[place] -= 1

    def share_drift(self) -> float:
        return _total_variation(self._by_label, self._expected_shares)

    def confidence_drift(self) -> float:
        return _total_variation(self._by_bin, self._expected_confidence)


class Drift:
    """Two gauges, each a total variation distance: 0 is no difference, 1 is nothing in common.

    Over the last 1,000 routed texts of this process. NaN where the manifest does not know what to expect, and
    below 200 texts.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register the gauges."""
        self._shares = Gauge(
            "gradientspace_expert_share_drift",
            "Distance of the experts' shares among the last 1,000 routed texts from those in training (NaN: unknown)",
            ["bundle"],
            registry=registry,
        )
        self._confidence = Gauge(
            "gradientspace_router_confidence_drift",
            "Distance of the last 1,000 texts' router confidences from those of held-out rows (NaN: unknown)",
            ["bundle"],
            registry=registry,
        )
        self._windows: dict[str, _Window] = {}

    def serve_bundle(self, manifest: Manifest) -> None:
        """Watch this bundle, anew if it is another one, and forget all others."""
        digest = manifest.digest
        for other in self._windows.keys() - {digest}:
            del self._windows[other]
            for gauge in (self._shares, self._confidence):
                gauge.remove(other)
        if digest not in self._windows:
            window = self._windows[digest] = _Window(manifest)
            self._shares.labels(digest).set_function(window.share_drift)
            self._confidence.labels(digest).set_function(window.confidence_drift)

    def observe(self, bundle: str, choice: str, confidence: float) -> None:
        """Take note of one text's most probable label; of a bundle that is no longer served, nothing."""
        window = self._windows.get(bundle)
        if window is not None:
            window.observe(choice, confidence)


def _total_variation(counts: Sequence[int], expected: Sequence[float] | None) -> float:
    """Half the sum of the differences between shares."""
    total = sum(counts)
    if expected is None or total < FEWEST_TEXTS:
        return nan
    whole = sum(expected)
    return 0.5 * sum(
        abs(count / total - share / whole) for count, share in zip(counts, expected, strict=True)
    )
