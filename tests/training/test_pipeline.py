"""The whole line on a tiny model: rows to bundle, again, after a deletion, and after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from rich.console import Console
from safetensors.torch import load_file
from tiny_encoder import save_encoder
from tiny_model import ROOT
from transformers import AutoModelForCausalLM, AutoTokenizer

from bundle.base_check import check_base
from bundle.digests import adapter_digest
from bundle.errors import BundleError
from bundle.manifest import HELD_OUT_FILE
from bundle.read import ROUTER_HEAD, Bundle, read_bundle
from demo.rows import make_rows
from evaluation.gradient_router import GradientRouter
from router.load import load_router
from router.semantic import SemanticRouter
from training.errors import TrainingError
from training.held_out import label_held_out
from training.inputs import read_inputs
from training.pipeline import cluster, train
from training.planning import plan_clusters
from training.progress import Narrator
from training.recipe import Recipe, read_recipe
from training.stage_one import warm_up
from training.stage_store import StageStore
from training.stage_two import read_assignment
from training.world import World

BAD_ROWS = [{"instruction": "Add.", "output": ""}, {"question": "?"}]


@dataclass
class Run:
    """A recipe's values, and a way to run it."""

    given: dict[str, Any]
    said: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.given["output"])

    def recipe(self, **changes: Any) -> Recipe:
        return read_recipe(None, self.given | {key.replace("__", "."): v for key, v in changes.items()}, [])

    def train(self, **changes: Any) -> Bundle:
        screen = io.StringIO()
        try:
            return train(self.recipe(**changes), Narrator(Console(file=screen, width=200, highlight=False)))
        finally:
            self.said.append(screen.getvalue())

    def kept(self) -> dict[str, bool]:
        """Which stages the last run kept, by their titles."""
        kept = {}
        for line in self.said[-1].splitlines():
            if line.startswith(("Stage", "Bundle")):
                title, done, _ = line.partition(": done before, kept")
                kept[title.split(" (")[0]] = bool(done)
        return kept

    def copied_to(self, folder: Path) -> Run:
        shutil.copytree(self.folder, folder)
        return Run(self.given | {"output": str(folder)})


@pytest.fixture(scope="module")
def first(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run on 120 demo rows and two that can't be used."""
    folder = tmp_path_factory.mktemp("pipeline")
    rows = make_rows(24, 0, "train")
    lines = [json.dumps(row) for row in [*rows[:50], BAD_ROWS[0], *rows[50:], BAD_ROWS[1]]]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    run = Run(
        {
            "data.files": [str(folder / "rows.jsonl")],
            "data.licenses": ["mit"],
            "base.model": str(base_folder),
            "base.dtype": "float32",
            "lora.rank": 4,
            "lora.alpha": 8,
            "split.validation_at_least": 16,
            "split.probe_at_least": 24,
            "warmup.at_least_steps": 10,
            "warmup.learning_rate": 5e-3,
            "clusters.k_max": 3,
            "clusters.n_init": 2,
            "clusters.max_epochs": 2,
            "clusters.min_rows": 1,
            "experts.epochs": 1,
            "experts.learning_rate": 1e-3,
            "router.encoder": str(save_encoder(folder / "encoder")),
            "router.max_tokens": 64,
            "output": str(folder / "run"),
        }
    )
    run.train()
    return run


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_bundle_reads_verifies_and_fits_the_base(first: Run, base_folder: Path) -> None:
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


def test_the_adapters_are_plain_peft_and_all_differ(first: Run, base_folder: Path) -> None:
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


def test_the_router_of_the_bundle_routes(first: Run) -> None:
    bundle = read_bundle(first.folder / "bundle")
    labels, tokens = bundle.manifest.label_order, bundle.manifest.routed_text.max_tokens
    router = SemanticRouter(bundle.folder / "router", labels, tokens, bundle.manifest.calibration.temperature)
    probabilities = router.probabilities([row["instruction"] for row in make_rows(4, 1, "heldout")])
    assert probabilities.shape == (20, len(labels))
    assert probabilities.sum(1) == pytest.approx(1)


def test_a_second_run_keeps_every_stage_and_the_bundle(first: Run, tmp_path: Path) -> None:
    before = digests(first.folder / "bundle"), digests(first.folder / "stages")
    changed_at = (first.folder / "bundle" / "bundle.json").stat().st_mtime_ns
    first.train()
    assert set(first.kept().values()) == {True}
    assert "Bundle" in first.kept()
    assert (digests(first.folder / "bundle"), digests(first.folder / "stages")) == before
    assert (first.folder / "bundle" / "bundle.json").stat().st_mtime_ns == changed_at


def test_a_deleted_expert_is_trained_again_alone_and_to_the_bit(first: Run, tmp_path: Path) -> None:
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


def test_a_damaged_bundle_is_put_together_again(first: Run, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    (run.folder / "bundle" / "chat_template.jinja").write_text("broken")
    run.train()
    assert set(run.kept().values()) == {True}
    assert (run.folder / "bundle" / "chat_template.jinja").read_text() != "broken"
    read_bundle(run.folder / "bundle")


def test_other_experts_need_no_other_clusters(first: Run, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    bundle = run.train(experts__epochs=2)
    kept = run.kept()
    assert {title for title, kept_ in kept.items() if not kept_} == {t for t in kept if "expert" in t}
    assert bundle.manifest.recipe["experts"]["epochs"] == 2


def test_experts_share_part_of_the_epochs_and_start_from_there(first: Run, tmp_path: Path) -> None:
    def stage(name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((run.folder / "stages" / name / "stage.json").read_text())
        return found

    run = first.copied_to(tmp_path / "run")
    section = run.recipe().experts
    rows = len(read_inputs(run.recipe(), Narrator(Console(file=io.StringIO()))).split.train)
    assert stage("shared")["depends_on"]["warmup"] == stage("warmup")["digest"]
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


def test_what_no_stage_depends_on_still_reaches_the_bundle(first: Run, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    bundle = run.train(data__licenses=["apache-2.0"])
    assert bundle.manifest.data_licenses == ("apache-2.0",)
    assert all(kept for title, kept in run.kept().items() if title != "Bundle")


def test_too_many_bad_rows_stop_before_any_stage(first: Run, tmp_path: Path) -> None:
    run = Run(first.given | {"output": str(tmp_path / "run"), "data.max_unusable": 0.01})
    with pytest.raises(TrainingError, match=r"2 of 122 rows can't be used"):
        run.train()
    assert not (tmp_path / "run").exists()


def test_held_out_rows_another_router_and_a_fallback_on_everything(first: Run, tmp_path: Path) -> None:
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
        next(title for title in kept if title.startswith("Stage III: the fallback, on all")),
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


def test_a_gradient_router_is_trained_to_be_compared_with(first: Run, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    bundle = run.train(router__kind="gradient")
    kept = run.kept()
    assert {title for title, done in kept.items() if not done and title != "Bundle"} == {
        next(title for title in kept if title.startswith("Stage III: gradient router"))
    }
    assert "the service refuses its bundle" in " ".join(run.said[-1].split())
    manifest = bundle.manifest
    assert (manifest.router.kind, manifest.router.encoder, manifest.router.cascade) == (
        "gradient",
        None,
        None,
    )
    head = load_file(bundle.folder / ROUTER_HEAD)["W"]  # [K, d]
    assert head.shape == (len(manifest.experts), manifest.router.hidden)
    assert torch.allclose(head.norm(dim=1), torch.ones(len(head)), atol=1e-4)
    router = GradientRouter(
        read_inputs(run.recipe(), Narrator()), run.folder / "stages", manifest.label_order
    )
    lines = [
        line for line in pq.read_table(bundle.folder / HELD_OUT_FILE).to_pylist() if line["use"] == "judge"
    ]
    found = router.probabilities([line["text"] for line in lines]).argmax(1)
    assert manifest.calibration.agreement == pytest.approx(
        float((found == [line["label"] for line in lines]).mean()), abs=1.1 / len(lines)
    )
    report = json.loads((bundle.folder / "report" / "report.json").read_text())
    assert set(report["router"]["kinds"]) == {"semantic", "embedding", "keyword", "gradient"}
    with pytest.raises(BundleError, match=r"needs the base model itself for every prompt"):
        load_router(bundle)


def test_held_out_rows_get_the_labels_that_the_assignment_gives(first: Run, tmp_path: Path) -> None:
    run = first.copied_to(tmp_path / "run")
    narrator = Narrator(Console(file=io.StringIO()))
    inputs = read_inputs(run.recipe(), narrator)
    known = inputs.pick(inputs.split.validation)  # the assignment has labelled them already
    inputs = replace(inputs, held_out=known, held_out_digest="validation rows")
    store = StageStore(run.folder / "stages", narrator, World())
    warmup, plan = warm_up(inputs, store), plan_clusters(inputs, store)
    clusters = cluster(inputs, store, warmup, plan)
    assignment = read_assignment(clusters.assigned)
    found = label_held_out(inputs, store, warmup, clusters.centroids, clusters.assigned, assignment)
    count = len(known)
    assert len(set(found.labels)) > 1
    assert found.labels[count:].tolist() == found.labels[:count].tolist()
    assert found.cosine[count:] == pytest.approx(found.cosine[:count], abs=1e-5)
    assert found.margin[count:] == pytest.approx(found.margin[:count], abs=1e-5)


def test_a_bundle_tells_its_held_out_rows_as_they_are_routed(first: Run) -> None:
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


KILLED = """
import json, os, signal, sys
import training.pipeline as pipeline
import training.tuning as tuning
from training.progress import Narrator
from training.recipe import read_recipe

tune, calls = tuning.finetune, []

def killed_in_the_second_expert(model, tokenizer, rows, schedule, seed, save_to, advance):
    calls.append(save_to)
    def stop(done):
        advance(done)
        if len(calls) == 4:  # the warm-up, what is shared, the first expert, the second
            os.kill(os.getpid(), signal.SIGKILL)
    return tune(model, tokenizer, rows, schedule, seed, save_to, stop)

tuning.finetune = killed_in_the_second_expert
pipeline.train(read_recipe(None, json.loads(sys.argv[1]), []), Narrator())
"""


def test_a_killed_run_goes_on_where_it_was(first: Run, tmp_path: Path) -> None:
    run = Run(first.given | {"output": str(tmp_path / "run")})
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(run.given)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    stages = run.folder / "stages"
    assert not (stages / "expert-1").exists()
    assert not (run.folder / "bundle").exists()
    before = {
        name: digests(stages / name)
        for name in (
            "plan",
            "warmup",
            "diagnosis",
            "start",
            "centroids",
            "assignment",
            "orders",
            "shared",
            "expert-0",
        )
    }
    run.train()
    kept = [title for title, kept_ in run.kept().items() if kept_]
    assert len(kept) == len(before)
    assert {name: digests(stages / name) for name in before} == before
    assert not list(stages.glob(".*"))
    # Two processes, one of them killed: the same adapters to the bit as the run that was never stopped.
    whole, mended = (read_bundle(each.folder / "bundle").manifest for each in (first, run))
    assert [expert.digest for expert in mended.experts] == [expert.digest for expert in whole.experts]
    assert mended.fallback.digest == whole.fallback.digest
