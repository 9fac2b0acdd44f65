"""The two gauges of drift, without an engine."""

from __future__ import annotations

from math import isnan
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bundle.manifest import Manifest
from service.telemetry.drift import FEWEST_TEXTS, WINDOW_TEXTS, Drift
from tests.stand_ins.dispatch_setup import small_manifest

SHARES = "gradientspace_expert_share_drift"
CONFIDENCE = "gradientspace_router_confidence_drift"


def manifest(
    shares: tuple[float, ...] = (0.5, 0.3, 0.2), confidence: tuple[float, ...] | None = None
) -> Manifest:
    plain: dict[str, Any] = small_manifest().model_dump(mode="json")
    for expert, share in zip(plain["experts"], shares, strict=True):
        expert["share"] = share
    plain["calibration"]["confidence"] = confidence
    return Manifest.model_validate(plain).sealed()


class Watched:
    def __init__(self, manifest: Manifest) -> None:
        self.registry = CollectorRegistry()
        self.drift = Drift(self.registry)
        self.manifest = manifest
        self.drift.serve_bundle(manifest)

    def observe(self, expert: int, confidence: float, times: int) -> None:
        for _ in range(times):
            self.drift.observe(self.manifest.digest, f"expert-{expert}", confidence)

    def value(self, name: str) -> float:
        found = self.registry.get_sample_value(name, {"bundle": self.manifest.digest})
        assert found is not None
        return found


def test_the_distance_of_the_shares() -> None:
    watched = Watched(manifest())
    for expert, times in ((0, 250), (1, 150), (2, 100)):
        watched.observe(expert, 0.95, times)
    assert watched.value(SHARES) == pytest.approx(0)
    watched.observe(2, 0.95, 500)  # shares 0.25, 0.15, 0.6
    assert watched.value(SHARES) == pytest.approx(0.4)


def test_the_distance_of_the_confidences() -> None:
    watched = Watched(manifest(confidence=(0, 0, 0, 0, 0.1, 0.2, 0, 0, 0, 0.7)))
    watched.observe(0, 0.4, 20)
    watched.observe(0, 0.59, 40)
    watched.observe(0, 1.0, 140)
    assert watched.value(CONFIDENCE) == pytest.approx(0)
    watched.observe(0, 0.0, 200)
    assert watched.value(CONFIDENCE) == pytest.approx(0.5)


def test_only_the_last_texts_count() -> None:
    watched = Watched(manifest())
    watched.observe(2, 0.5, 5 * WINDOW_TEXTS)
    watched.observe(0, 0.5, WINDOW_TEXTS // 2)
    watched.observe(1, 0.5, WINDOW_TEXTS * 3 // 10)
    watched.observe(2, 0.5, WINDOW_TEXTS // 5)
    assert watched.value(SHARES) == pytest.approx(0)


def test_what_the_manifest_does_not_know_is_not_a_number() -> None:
    unknown = Watched(manifest(shares=(0.0, 0.0, 0.0)))
    unknown.observe(0, 0.9, FEWEST_TEXTS)
    assert isnan(unknown.value(SHARES))
    assert isnan(unknown.value(CONFIDENCE))


def test_few_texts_say_nothing() -> None:
    watched = Watched(manifest())
    watched.observe(0, 0.9, FEWEST_TEXTS - 1)
    assert isnan(watched.value(SHARES))
    watched.observe(0, 0.9, 1)
    assert watched.value(SHARES) == pytest.approx(0.5)


def test_another_bundle_begins_anew_and_the_old_ones_last_answers_change_nothing() -> None:
    watched = Watched(manifest())
    watched.observe(0, 0.9, FEWEST_TEXTS)
    old, new = watched.manifest, manifest(shares=(0.2, 0.2, 0.6))
    watched.drift.serve_bundle(new)
    watched.drift.observe(old.digest, "expert-0", 0.9)
    watched.manifest = new
    assert isnan(watched.value(SHARES))
    assert watched.registry.get_sample_value(SHARES, {"bundle": old.digest}) is None
    watched.observe(2, 0.9, FEWEST_TEXTS)
    watched.drift.serve_bundle(new)  # said once more when the old one's last answer is out
    assert watched.value(SHARES) == pytest.approx(0.4)
