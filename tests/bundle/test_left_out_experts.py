"""A gate: experts that were not shown to help are left out, and the fallback answers for their labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bundle.errors import BundleError
from bundle.fingerprints import FINGERPRINTS_FILE
from bundle.read import read_bundle
from cli.inspect import inspect
from cli.route import route
from router.load import load_router
from router.policy import Policy
from tests.stand_ins.commands import run_command
from tests.stand_ins.small_bundle import LABELS, edit_manifest, reseal


def leave_out(bundle: Path, left: Sequence[str]) -> None:
    """Give the bundle a gate, and take these experts out of it."""

    def change(content: dict[str, Any]) -> None:
        gain = {"mean": -0.1, "low": -0.2, "high": -0.05}
        content["gate"] = {
            "labels": [
                {
                    "rows": expert["rows"],
                    "share": expert["share"],
                    "threshold": None if expert["name"] in left else 0.5,
                    "measured_rows": 20,
                    "gain": gain,
                }
                for expert in content["experts"]
            ],
            "measured_rows": 60,
            "served": gain,
        }
        content["experts"] = [expert for expert in content["experts"] if expert["name"] not in left]
        folders = tuple(f"experts/{name}/" for name in left)
        content["files"] = {
            name: digest for name, digest in content["files"].items() if not name.startswith(folders)
        }

    edit_manifest(bundle, change)
    path = bundle / FINGERPRINTS_FILE
    known = json.loads(path.read_text())
    known["adapters"] = {name: found for name, found in known["adapters"].items() if name not in left}
    path.write_text(json.dumps(known))
    for name in left:
        shutil.rmtree(bundle / "experts" / name)
    reseal(bundle)


@pytest.mark.parametrize("left", [(LABELS[1],), LABELS])
def test_an_expert_that_never_helps_is_left_out(bundle_folder: Path, left: Sequence[str]) -> None:
    leave_out(bundle_folder, left)
    manifest = read_bundle(bundle_folder).manifest
    kept = [name for name in LABELS if name not in left]
    assert manifest.label_order == LABELS
    assert [expert.name for expert in manifest.experts] == kept
    assert manifest.label_shares == pytest.approx({name: (k + 1) / 6 for k, name in enumerate(LABELS)})
    assert Policy.of(manifest).helps_from == tuple(0.5 if name in kept else None for name in LABELS)
    assert load_router(read_bundle(bundle_folder)).labels == LABELS


def test_inspect_and_route_say_so(bundle_folder: Path) -> None:
    leave_out(bundle_folder, LABELS[:2])
    shown = run_command(inspect, str(bundle_folder)).stdout
    for part in (
        "K = 3",
        "2 left out",
        "-0.1000 [-0.2000, -0.0500]",
        "confidence of 0.50",
        "left out",
    ):
        assert part in shown
    for name in LABELS:
        assert name in shown
    told = json.loads(run_command(inspect, str(bundle_folder), "--json").stdout)
    assert [label["name"] for label in told["left_out"]] == list(LABELS[:2])
    texts = ["tell me a story", "add two numbers", "write a function"]
    for row in json.loads(run_command(route, str(bundle_folder), *texts, "--json").stdout):
        best = max(row["probabilities"], key=row["probabilities"].get)
        helps = best == LABELS[2] and row["confidence"] >= 0.5
        assert (row["expert"], row["reason"]) == ((best, "routed") if helps else ("fallback", "no_gain"))


@pytest.mark.parametrize("broken", ["one more", "one less", "without a gate", "labels"])
def test_a_gate_that_contradicts_the_experts(bundle_folder: Path, broken: str) -> None:
    leave_out(bundle_folder, (LABELS[1],))

    def change(content: dict[str, Any]) -> None:
        if broken == "without a gate":
            content["gate"] = None
        elif broken == "labels":
            content["gate"]["labels"].pop()
        else:
            content["gate"]["labels"][1 if broken == "one more" else 0]["threshold"] = (
                0.5 if broken == "one more" else None
            )

    edit_manifest(bundle_folder, change)
    field = "gate.labels" if broken == "labels" else "label_order"
    with pytest.raises(BundleError) as caught:
        read_bundle(bundle_folder)
    assert str(caught.value).startswith(f"bundle.json, field '{field}'")
