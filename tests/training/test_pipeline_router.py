"""The router at the end of the line: its kinds, its held-out rows and the fallback, on a tiny model."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bundle.digests import adapter_digest
from bundle.manifest import HELD_OUT_FILE
from demo.rows import make_rows
from router.load import load_router
from tests.stand_ins.tiny_line import TinyRun
from training.progress import Narrator
from training.run import Run
from training.stages.inputs import read_inputs
from training.stages.processes import World
from training.stages.store import StageStore


def test_held_out_rows_another_router_and_a_fallback_on_everything(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    unseen, seen = make_rows(8, 0, "routing"), make_rows(24, 0, "train")[:3]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("\n".join(json.dumps(row) for row in [*unseen, *seen]) + "\n")
    changes = {
        "data__held_out": [str(held_out)],
        "data__held_out_texts": False,
        "fallback__train": "everything",
    }
    bundle = run.train(**changes, router__kind="keyword", router__target_agreement=0.99)
    kept = run.kept()
    assert {title for title, done in kept.items() if not done and title != "Bundle"} == {
        "Stage II: 40 held-out rows",
        next(title for title in kept if title.startswith("Stage III: the fallback")),
        next(title for title in kept if title.startswith("Stage III: keyword router")),
    }
    assert "left out 3 rows of data.held_out" in run.said[-1]
    assert "don't show it at any confidence, so the router never abstains" in "".join(
        run.said[-1].split("\n")
    )
    manifest = bundle.manifest
    assert (manifest.fallback.kind, manifest.router.kind, manifest.router.encoder) == (
        "everything",
        "keyword",
        None,
    )
    assert not (bundle.router_folder / "model.onnx").exists()
    calibration = manifest.calibration
    assert (calibration.target_agreement, calibration.threshold) == (0.99, None)
    lines = pq.read_table(bundle.folder / HELD_OUT_FILE).to_pylist()
    assert [line["part"] for line in lines] == ["validation"] * (len(lines) - 40) + ["held_out"] * 40
    assert {line["text"] for line in lines} == {None} == {line["response"] for line in lines}
    uses = [line["use"] for line in lines]
    assert uses.count("teach") == uses[-40:].count("teach") == 13
    assert calibration.fitted_rows == uses.count("fit") == (len(lines) - 13) // 2
    assert calibration.held_out_rows == uses.count("judge")
    router = load_router(bundle)
    judged = [
        (row["instruction"] + ("\n" + row["input"] if row["input"] else ""), line)
        for row, line in zip(unseen, lines[-40:], strict=True)
        if line["use"] == "judge"
    ]
    right = router.probabilities([text for text, _ in judged]).argmax(1) == [
        line["label"] for _, line in judged
    ]
    others = calibration.held_out_rows - len(judged)
    assert calibration.agreement is not None
    assert right.sum() <= round(calibration.agreement * calibration.held_out_rows) <= right.sum() + others
    warmup = json.loads((run.folder / "stages" / "fallback" / "adapter_config.json").read_text())
    assert warmup["r"] == manifest.lora.rank
    assert adapter_digest(run.folder / "stages" / "fallback") == manifest.fallback.digest
    assert adapter_digest(run.folder / "stages" / "warmup") != manifest.fallback.digest


def test_held_out_rows_get_the_labels_that_the_assignment_gives(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    narrator = Narrator(Console(file=io.StringIO()))
    inputs = read_inputs(run.recipe(), narrator)
    known = inputs.pick(inputs.split.validation)  # the assignment has labelled them already
    inputs = replace(inputs, held_out=known, held_out_digest="validation rows")
    store = StageStore(run.folder / "stages", narrator, World())
    with Run(inputs, store) as again:
        found = again.held_out
    count = len(known)
    assert len(set(found.labels)) > 1
    assert found.labels[count:].tolist() == found.labels[:count].tolist()
    assert found.cosine[count:] == pytest.approx(found.cosine[:count], abs=1e-5)
    assert found.margin[count:] == pytest.approx(found.margin[:count], abs=1e-5)


def test_a_bundle_tells_its_held_out_rows_as_they_are_routed(first: TinyRun) -> None:
    lines = pq.read_table(first.folder / "bundle" / HELD_OUT_FILE).to_pylist()
    by_origin = {
        f"rows.jsonl:{number}": json.loads(line)
        for number, line in enumerate(Path(first.given["data.files"][0]).read_text().splitlines(), start=1)
    }
    for line in lines:
        row = by_origin[line["origin"]]
        assert line["text"] == row["instruction"] + ("\n" + row["input"] if row["input"] else "")
        assert line["response"].strip() == row["output"]
        assert line["part"] == "validation"
