"""The whole line with its defaults after Stage II: share until it stops, one LoRA, a gate by measured loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from bundle.read import Bundle
from tests.stand_ins.small_report import small_gate
from tests.stand_ins.tiny_comparison import silent
from tests.stand_ins.tiny_line import TinyRun
from training.gate.gate import per_token
from training.gate.policy import FOLDS, decide, interval, judged
from training.run import finished_run

OURS = {"experts__shared": "until_it_stops", "router__gate": "measured", "fallback__train": "everything"}


@pytest.fixture(scope="module")
def gated(first: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[TinyRun, Bundle]:
    run = first.copied_to(tmp_path_factory.mktemp("gated") / "run")
    return run, run.train(**OURS, experts__epochs=2)


def facts(run: TinyRun, name: str) -> dict[str, Any]:
    return json.loads((run.folder / "stages" / name / "stage.json").read_text())["facts"]


def test_one_lora_goes_on_from_what_the_experts_go_on_from(gated: tuple[TinyRun, Bundle]) -> None:
    run, bundle = gated
    shared, fallback = facts(run, "shared"), facts(run, "fallback")
    per_epoch = -(-104 // 16)
    assert shared["steps"] <= 0.75 * 2 * per_epoch + 1
    assert shared["steps"] + fallback["steps"] <= 2 * per_epoch + 1
    assert bundle.manifest.fallback.kind == "everything"
    started = fallback["validation_losses"][0][1]
    assert started == pytest.approx(
        dict(map(tuple, shared["validation_losses"]))[shared["kept_step"]], rel=1e-4
    )


def test_no_row_that_stopped_training_or_taught_the_router_is_measured(gated: tuple[TinyRun, Bundle]) -> None:
    run, bundle = gated
    inputs = finished_run(run.folder, silent()).inputs
    measured = set(pq.read_table(bundle.folder / "report" / "gate.parquet")["origin"].to_pylist())
    stopping = {inputs.rows[row].origin for row in inputs.split.stopping}
    learned = {inputs.rows[row].origin for row in inputs.split.train}
    assert measured
    assert stopping
    assert not measured & (stopping | learned)
    assert measured | stopping == {inputs.rows[row].origin for row in inputs.split.validation}


def test_the_bundle_serves_what_the_table_says(gated: tuple[TinyRun, Bundle]) -> None:
    """Whoever has the bundle can decide again, and gets the same."""
    _, bundle = gated
    manifest = bundle.manifest
    table = pq.read_table(bundle.folder / "report" / "gate.parquet").to_pydict()
    names = manifest.label_order
    sums = np.array([table[f"loss_{name}"] for name in ("fallback", *names)]).T
    probabilities = np.array([table[f"probability_{name}"] for name in names]).T
    assert probabilities.sum(1) == pytest.approx(1, abs=1e-5)
    losses, folds = per_token(sums, np.array(table["tokens"])), np.array(table["fold"])
    assert set(folds.tolist()) <= set(range(FOLDS))
    thresholds = decide(losses, probabilities, folds)
    assert manifest.gate is not None
    assert [label.threshold for label in manifest.gate.labels] == [
        None if least == np.inf else least for least in thresholds
    ]
    assert [expert.name for expert in manifest.experts] == [
        name for name, least in zip(names, thresholds, strict=True) if least != np.inf
    ]
    mean, low, _high = interval(judged(losses, probabilities, folds))
    if np.isfinite(thresholds).any():
        assert (manifest.gate.served.mean, manifest.gate.served.low) == pytest.approx((mean, low))
    else:
        assert (manifest.gate.served.mean, manifest.gate.served.high) == (0, 0)
    assert all(digest in manifest.files for digest in ("report/gate.parquet",))


def test_the_report_and_the_terminal_answer_the_first_question(gated: tuple[TinyRun, Bundle]) -> None:
    _run, bundle = gated
    report = json.loads((bundle.folder / "report" / "report.json").read_text())
    known = small_gate()
    assert report["gate"].keys() == known.keys()
    assert report["gate"]["record"].keys() == known["record"].keys()
    assert report["gate"]["record"]["labels"][0].keys() == known["record"]["labels"][0].keys()
    first = report["verdict"]["findings"][0]
    assert first["topic"] == "Does splitting help on your rows?"
    page = (bundle.folder / "report" / "report.html").read_text()
    assert page.index("Does splitting help on your rows?") < page.index("Is the number of clusters real?")
    assert "Does splitting help on your rows?" in (bundle.folder / "README.md").read_text()


def test_again_it_is_all_kept_and_a_lost_measurement_is_made_again(gated: tuple[TinyRun, Bundle]) -> None:
    run, bundle = gated
    run.train(**OURS, experts__epochs=2)
    assert all(run.kept().values())
    (run.folder / "stages" / "losses-expert-0" / "stage.json").unlink()
    again = run.train(**OURS, experts__epochs=2)
    assert again.manifest.gate == bundle.manifest.gate
    told = run.said[-1]
    assert "the loss of expert-0" in told
    assert "the loss of fallback on" in told
    assert (
        f"the loss of fallback on {bundle.manifest.gate.measured_rows} held-out rows: done before, kept"
        in told
    )


def test_a_gate_that_is_off_serves_every_expert(gated: tuple[TinyRun, Bundle], tmp_path: Path) -> None:
    run, _ = gated
    other = run.copied_to(tmp_path / "run")
    bundle = other.train(**OURS | {"router__gate": "off"}, experts__epochs=2)
    assert bundle.manifest.gate is None
    assert tuple(expert.name for expert in bundle.manifest.experts) == bundle.manifest.label_order
    report = json.loads((bundle.folder / "report" / "report.json").read_text())
    assert report["verdict"]["findings"][0]["text"].startswith("Not measured: router.gate is off")
    assert "report/gate.parquet" not in bundle.manifest.files


def test_one_cluster_is_one_lora(gated: tuple[TinyRun, Bundle], tmp_path: Path) -> None:
    run, _ = gated
    other = run.copied_to(tmp_path / "run")
    bundle = other.train(**OURS, experts__epochs=2, clusters__k=1)
    assert (bundle.manifest.label_order, bundle.manifest.experts) == (("expert-0",), ())
    assert bundle.manifest.fallback.kind == "everything"
    assert "Stage III: expert" not in other.said[-1]
