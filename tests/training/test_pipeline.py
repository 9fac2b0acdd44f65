"""The whole line on a tiny model: rows to bundle, again, after a deletion, and after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bundle.base_check import check_base
from bundle.read import read_bundle
from demo.rows import make_rows
from router.load import load_router
from router.semantic import SemanticRouter
from tests.stand_ins.forked import exit_code, forked
from tests.stand_ins.killed_line import train_until_killed
from tests.stand_ins.tiny_line import TinyRun
from training.errors import TrainingError
from training.progress import Narrator
from training.recipe import Recipe
from training.stages.inputs import read_inputs


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_bundle_reads_verifies_and_fits_the_base(first: TinyRun, base_folder: Path) -> None:
    bundle = read_bundle(first.folder / "bundle")
    check_base(bundle, base_folder)
    manifest = bundle.manifest
    names = [f"expert-{label}" for label in range(len(manifest.experts))]
    assert len(names) >= 2
    assert list(manifest.label_order) == names == [expert.name for expert in manifest.experts]
    assert sum(expert.rows for expert in manifest.experts) == 120 - 16
    assert sum(expert.share for expert in manifest.experts) == pytest.approx(1)
    assert [expert.rows for expert in manifest.experts] == sorted(
        (e.rows for e in manifest.experts), reverse=True
    )
    assert (manifest.lora.rank, manifest.lora.alpha) == (4, 8)
    assert manifest.data_licenses == ("mit",)
    assert Recipe.model_validate(manifest.recipe) == first.recipe()
    report = json.loads((bundle.folder / "report" / "report.json").read_text())
    assert report["rows"]["used"] == 120
    assert [row["origin"] for row in report["rows"]["unusable"]] == ["rows.jsonl:51", "rows.jsonl:122"]
    assert report["rows"]["unusable"][0]["reason"] == "it has no response"
    assert "left out rows.jsonl:51: it has no response" in first.said[0]
    assert set(report["clusters"]["by_source"]) == {"arithmetic", "reversal", "code", "story", "finance"}


def test_the_adapters_are_plain_peft_and_all_differ(first: TinyRun, base_folder: Path) -> None:
    bundle = first.folder / "bundle"
    folders = [bundle / "fallback", *sorted((bundle / "experts").iterdir())]
    ids = torch.tensor([AutoTokenizer.from_pretrained(base_folder)("Add 2 and 3.")["input_ids"]])
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    outputs = [base(input_ids=ids).logits.detach()]
    for folder in folders:
        assert sorted(path.name for path in folder.iterdir()) == [
            "adapter_config.json",
            "adapter_model.safetensors",
        ]
        base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(folder)).eval()
        saved = load_file(folder / "adapter_model.safetensors")
        for name, weight in model.named_parameters():
            if "lora_" in name:
                assert torch.equal(weight, saved[name.replace(".default", "")])
        outputs.append(model(input_ids=ids).logits.detach())
    for place, one in enumerate(outputs):
        for other in outputs[place + 1 :]:
            assert float((one - other).abs().max()) > 1e-4


def test_the_router_of_the_bundle_routes(first: TinyRun) -> None:
    bundle = read_bundle(first.folder / "bundle")
    labels, tokens = bundle.manifest.label_order, bundle.manifest.routed_text.max_tokens
    router = SemanticRouter(bundle.folder / "router", labels, tokens, bundle.manifest.calibration.temperature)
    probabilities = router.probabilities([row["instruction"] for row in make_rows(4, 1, "heldout")])
    assert probabilities.shape == (20, len(labels))
    assert probabilities.sum(1) == pytest.approx(1)


def test_a_second_run_keeps_every_stage_and_the_bundle(first: TinyRun, tmp_path: Path) -> None:
    before = digests(first.folder / "bundle"), digests(first.folder / "stages")
    changed_at = (first.folder / "bundle" / "bundle.json").stat().st_mtime_ns
    first.train()
    assert set(first.kept().values()) == {True}
    assert "Bundle" in first.kept()
    assert (digests(first.folder / "bundle"), digests(first.folder / "stages")) == before
    assert (first.folder / "bundle" / "bundle.json").stat().st_mtime_ns == changed_at


def test_a_deleted_expert_is_trained_again_alone_and_to_the_bit(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    shutil.rmtree(run.folder / "stages" / "expert-1")
    before = digests(run.folder / "bundle")
    run.train()
    again = [title for title, kept in run.kept().items() if not kept]
    assert len(again) == 1
    assert again[0].startswith("Stage III: expert 2 of")
    after = digests(run.folder / "bundle")
    changed = {name for name in before if before[name] != after[name]}
    assert after.keys() == before.keys()
    assert changed <= {"bundle.json", "report/report.json", "report/report.html"}  # times and peaks


def test_a_damaged_bundle_is_put_together_again(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    (run.folder / "bundle" / "chat_template.jinja").write_text("broken")
    run.train()
    assert set(run.kept().values()) == {True}
    assert (run.folder / "bundle" / "chat_template.jinja").read_text() != "broken"
    read_bundle(run.folder / "bundle")


def test_other_experts_need_no_other_clusters(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    bundle = run.train(experts__epochs=2)
    kept = run.kept()
    assert {title for title, kept_ in kept.items() if not kept_} == {t for t in kept if "expert" in t}
    assert bundle.manifest.recipe["experts"]["epochs"] == 2


def test_experts_share_part_of_the_epochs_and_start_from_there(first: TinyRun, tmp_path: Path) -> None:
    def stage(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((run.folder / "stages" / name / "stage.json").read_text())
        return found

    run = first.copied_to(tmp_path / "run")
    section = run.recipe().experts
    rows = len(read_inputs(run.recipe(), Narrator(Console(file=io.StringIO()))).split.train)
    assert stage("shared")["depends_on"]["start"] == stage("warmup")["digest"]
    assert stage("shared")["facts"]["row_visits"] == pytest.approx(0.75 * rows, abs=section.batch_rows)
    assert stage("expert-0")["depends_on"]["start"] == stage("shared")["digest"]
    shutil.rmtree(run.folder / "stages" / "shared")
    bundle = run.train(experts__shared=0)
    assert not (run.folder / "stages" / "shared").exists()
    assert stage("expert-0")["depends_on"]["start"] == stage("warmup")["digest"]
    assert stage("expert-0")["facts"]["row_visits"] == bundle.manifest.experts[0].rows
    assert {title for title, kept in run.kept().items() if not kept} == {
        title for title in run.kept() if ": expert " in title
    }


def test_rows_that_are_not_to_be_split_become_a_bundle_of_one_expert(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "one")
    bundle = run.train(clusters__k=1)
    manifest = bundle.manifest
    assert [(expert.name, expert.rows, expert.share) for expert in manifest.experts] == [
        ("expert-0", 104, 1.0)
    ]
    labels = pq.read_table(run.folder / "stages/assignment/assignments.parquet")["label"].to_numpy()
    assert set(labels.tolist()) == {0}
    router = load_router(bundle)
    assert router.labels == ("expert-0",)
    assert router.probabilities(["Add 3 and 4.", "Tell a story."]).tolist() == [[1.0], [1.0]]
    assert (bundle.folder / "report" / "report.html").is_file()


def test_what_no_stage_depends_on_still_reaches_the_bundle(first: TinyRun, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    bundle = run.train(data__licenses=["apache-2.0"])
    assert bundle.manifest.data_licenses == ("apache-2.0",)
    assert all(kept for title, kept in run.kept().items() if title != "Bundle")


def test_too_many_bad_rows_stop_before_any_stage(first: TinyRun, tmp_path: Path) -> None:
    run = TinyRun(first.given | {"output": str(tmp_path / "run"), "data.max_unusable": 0.01})
    with pytest.raises(TrainingError, match=r"2 of 122 rows can't be used"):
        run.train()
    assert not (tmp_path / "run").exists()


BEFORE_THE_EXPERTS = ("plan", "warmup", "diagnosis", "start", "centroids", "assignment", "orders", "shared")


def test_a_killed_run_goes_on_where_it_was(first: TinyRun, tmp_path: Path) -> None:
    run = TinyRun(first.given | {"output": str(tmp_path / "run")})
    stages = run.folder / "stages"
    for name in BEFORE_THE_EXPERTS:
        shutil.copytree(first.folder / "stages" / name, stages / name)
    said = tmp_path / "said"
    assert exit_code(forked(train_until_killed, run.given, "expert-1", log=said)) == -signal.SIGKILL, (
        said.read_text()
    )
    assert not (stages / "expert-1").exists()
    assert not (run.folder / "bundle").exists()
    before = {name: digests(stages / name) for name in (*BEFORE_THE_EXPERTS, "expert-0")}
    run.train()
    kept = [title for title, kept_ in run.kept().items() if kept_]
    assert len(kept) == len(before)
    assert {name: digests(stages / name) for name in before} == before
    assert not list(stages.glob(".*"))
    # Two processes, one of them killed: the same adapters to the bit as the run that was never stopped.
    whole, mended = (read_bundle(each.folder / "bundle").manifest for each in (first, run))
    assert [expert.digest for expert in mended.experts] == [expert.digest for expert in whole.experts]
    assert mended.fallback.digest == whole.fallback.digest
