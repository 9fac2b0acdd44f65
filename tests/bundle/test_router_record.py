"""What the manifest says of the router: bundles from before, contradictions, and the kind that is never served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle.errors import BundleError
from bundle.manifest import MANIFEST_FILE
from bundle.read import read_bundle
from router.load import load_other_router, load_router
from tests.stand_ins.small_bundle import edit_manifest, reseal

SINCE = {
    "router": ("precision", "cascade", "unfamiliar"),
    "routed_text": ("keeps",),
    "calibration": (
        *("fitted_rows", "macro_f1", "ece", "confidence", "shares"),
        *("target_agreement", "coverage", "covered_agreement"),
    ),
}


def make_older(folder: Path) -> None:
    """Make of a bundle what a version without these fields wrote: its seal is of the others alone."""
    content = json.loads((folder / MANIFEST_FILE).read_text())
    for section, names in SINCE.items():
        for name in names:
            del content[section][name]
    del content["seal"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["seal"] = hashlib.sha256(canonical.encode()).hexdigest()
    (folder / MANIFEST_FILE).write_text(json.dumps(content))


def test_a_bundle_from_before_opens_and_routes_as_it_did(bundle_folder: Path) -> None:
    make_older(bundle_folder)
    bundle = read_bundle(bundle_folder)
    assert bundle.manifest.routed_text.keeps == "head"
    assert bundle.manifest.router.cascade is None
    long = "tell me a story " * 40
    router = load_router(bundle)
    assert (router.probabilities([long]) == router.probabilities([long + "add two numbers"])).all()


def test_a_changed_bundle_from_before_is_still_refused(bundle_folder: Path) -> None:
    make_older(bundle_folder)
    edit_manifest(bundle_folder, lambda content: content["calibration"].update(temperature=9.0))
    with pytest.raises(BundleError, match="changed after it was sealed"):
        read_bundle(bundle_folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["router"].update(kind="keyword"), "the router's kind is 'keyword'"),
        (lambda content: content["router"].update(encoder=None), "the router's kind is 'semantic'"),
        (lambda content: content["router"].update(kind="oracle"), "router.kind"),
        (
            lambda content: content["router"].update(kind="keyword", encoder=None, precision="int8"),
            "no encoder to make faster",
        ),
        (lambda content: content["calibration"].update(confidence=[0.5] * 10), "confidence: shares"),
        (lambda content: content["calibration"].update(confidence=[0.5, 0.5]), "calibration.confidence"),
        (lambda content: content["calibration"].update(shares=[0.5, 0.5]), "2 shares for 3 labels"),
        (lambda content: content["calibration"].update(target_agreement=1.5), "target_agreement"),
    ],
)
def test_contradictions_are_refused(
    bundle_folder: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    edit_manifest(bundle_folder, change)
    with pytest.raises(BundleError, match=said):
        read_bundle(bundle_folder)


def test_a_bundle_that_says_it_has_a_cascade_must_have_one(bundle_folder: Path) -> None:
    cascade = {"threshold": 0.99, "share": 0.5, "agreement": 0.999, "rows": 100}
    reseal(bundle_folder, lambda content: content["router"].update(cascade=cascade))
    with pytest.raises(BundleError, match=r"files\.router/cascade\.safetensors"):
        read_bundle(bundle_folder)


def test_a_kind_that_the_bundle_does_not_hold_is_refused(bundle_folder: Path) -> None:
    bundle = read_bundle(bundle_folder)
    with pytest.raises(BundleError, match="the bundle holds no 'keyword' router"):
        load_other_router(bundle, "keyword")
    assert load_other_router(bundle, "semantic").labels == bundle.manifest.label_order


def test_a_router_by_gradient_is_no_kind_of_a_bundle(bundle_folder: Path) -> None:
    edit_manifest(bundle_folder, lambda content: content["router"].update(kind="gradient", encoder=None))
    with pytest.raises(BundleError, match=r"router\.kind"):
        read_bundle(bundle_folder)
