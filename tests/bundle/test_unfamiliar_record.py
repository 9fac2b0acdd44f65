"""A bundle that tells what is unlike training: read back, asked by commands, refused where its file is damaged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bundle.errors import BundleError
from bundle.read import ROUTER_FAMILIAR, read_bundle
from cli.inspect import inspect
from cli.route import route
from router.encoder_graph import ENCODING, EncoderGraph
from router.known_pairs import BITS
from router.load import load_router
from tests.stand_ins.commands import run_command
from tests.stand_ins.small_bundle import edit_manifest, reseal

KNOWN, STRANGE = "tell me a story", "write two numbers write"
TOLD: dict[str, Any] = {
    "by": "encoding",
    "answers": "fallback",
    "threshold": 1e-4,
    "quantile": 0.98,
    "caught": 0.02,
    "rows": 50,
}


def watch(folder: Path, answers: str = "fallback", **tensors: np.ndarray) -> None:
    """Make a bundle know one prompt, and nothing else; `tensors` in the place of those that are right."""
    graph = EncoderGraph(folder / "router", {ENCODING: 16}, 32, 1, "head")
    known = graph.run([KNOWN])[ENCODING]
    right = {
        "whitening": np.eye(16, dtype=np.float32),
        "prototypes": known / np.linalg.norm(known),
        "pairs": np.zeros(BITS // 8, np.uint8),
    }
    save_file(right | tensors, folder / ROUTER_FAMILIAR)

    def change(content: dict[str, Any]) -> None:
        content["files"][ROUTER_FAMILIAR] = ""
        content["router"]["unfamiliar"] = TOLD | {"answers": answers}

    reseal(folder, change)


def test_it_is_read_back(bundle_folder: Path) -> None:
    assert load_router(read_bundle(bundle_folder)).answers([STRANGE]).unfamiliar.tolist() == [False]
    watch(bundle_folder)
    bundle = read_bundle(bundle_folder)
    assert load_router(bundle).answers([KNOWN, STRANGE]).unfamiliar.tolist() == [False, True]


@pytest.mark.parametrize(("answers", "expert"), [("fallback", "fallback"), ("base", "tiny")])
def test_route_says_who_answers_and_why(bundle_folder: Path, answers: str, expert: str) -> None:
    watch(bundle_folder, answers)
    rows = json.loads(run_command(route, str(bundle_folder), KNOWN, STRANGE, "--json").stdout)
    assert [row["reason"] for row in rows] == ["routed", "unfamiliar"]
    assert rows[1]["expert"] == expert
    table = run_command(route, str(bundle_folder), KNOWN, STRANGE).stdout
    line = next(line for line in table.splitlines() if "write two" in line)
    assert re.search(rf"{expert} *│ unfamiliar", line)


def test_inspect_says_what_it_costs(bundle_folder: Path) -> None:
    assert "not told apart" in run_command(inspect, str(bundle_folder)).stdout
    watch(bundle_folder, "base")
    said = " ".join(run_command(inspect, str(bundle_folder)).stdout.split())
    assert "goes to the base; 2.0% of 50 held-out rows are caught, wrongly" in said


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {"whitening": np.eye(8, dtype=np.float32)},
            r"'whitening': it is float32 \[8, 8\], not float32 \[16, 16\]",
        ),
        ({"prototypes": np.zeros((0, 16), np.float32)}, "'prototypes': it is"),
        ({"prototypes": np.zeros(16, np.float32)}, "'prototypes': it is"),
        ({"prototypes": np.full((2, 16), np.nan, np.float32)}, "not every number in it is finite"),
    ],
)
def test_a_file_that_is_not_right_is_refused_by_name(
    bundle_folder: Path, tensors: dict[str, np.ndarray], said: str
) -> None:
    watch(bundle_folder, **tensors)
    with pytest.raises(BundleError, match=rf"router/familiar\.safetensors.*{said}"):
        load_router(read_bundle(bundle_folder))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda content: content["router"]["unfamiliar"].update(by="word_pairs"),
            "unfamiliar.by: it is 'word_pairs'",
        ),
        (
            lambda content: content["router"]["unfamiliar"].update(answers="nobody"),
            "router.unfamiliar.answers",
        ),
    ],
)
def test_contradictions_are_refused(
    bundle_folder: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    watch(bundle_folder)
    edit_manifest(bundle_folder, change)
    with pytest.raises(BundleError, match=said):
        read_bundle(bundle_folder)


def test_without_its_file_nothing_is_served(bundle_folder: Path) -> None:
    watch(bundle_folder)
    reseal(bundle_folder, lambda content: content["files"].pop(ROUTER_FAMILIAR))
    with pytest.raises(BundleError, match=r"files\.router/familiar\.safetensors.*does not list this file"):
        read_bundle(bundle_folder)
