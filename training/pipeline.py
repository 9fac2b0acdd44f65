"""The whole line: rows to bundle, one stage after the other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from bundle.errors import BundleError
from bundle.manifest import Calibration, RouterRecord
from bundle.read import Bundle, read_bundle
from training.bundling import Parts, git_commit, package_versions, write_bundle
from training.errors import TrainingError
from training.inputs import Inputs, read_inputs
from training.progress import Narrator
from training.recipe import Recipe
from training.stage_one import warm_up
from training.stage_store import StageResult, StageStore
from training.stage_three import train_expert, train_router
from training.stage_two import ASSIGNMENTS, assign_rows, calibrate_centroids, read_assignment, start_clusters
from training.terms import top_terms


def train(recipe: Recipe, narrator: Narrator) -> Bundle:
    """Run every stage that is not done yet and return the finished bundle.

    Raises:
        TrainingError: something the user can mend, said in one sentence.

    """
    if recipe.output is None:
        raise TrainingError("No run folder is given. Use --output FOLDER.")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    inputs = read_inputs(recipe, narrator)
    run = recipe.output
    store = StageStore(run / "stages", narrator)
    _write_run_record(run, inputs)
    warmup = warm_up(inputs, store)
    start = start_clusters(inputs, store, warmup)
    centroids = calibrate_centroids(inputs, store, warmup, start)
    assigned = assign_rows(inputs, store, warmup, centroids)
    assignment = read_assignment(assigned)
    experts = [
        train_expert(inputs, store, warmup, assigned, assignment, label) for label in range(assignment.k)
    ]
    router = train_router(inputs, store, assigned, assignment)
    return _finish(inputs, store, start, centroids, assigned, warmup, experts, router)


def _finish(
    inputs: Inputs,
    store: StageStore,
    start: StageResult,
    centroids: StageResult,
    assigned: StageResult,
    warmup: StageResult,
    experts: Sequence[StageResult],
    router: StageResult,
) -> Bundle:
    assert inputs.recipe.output is not None
    final = inputs.recipe.output / "bundle"
    if all(result.kept for result in store.results.values()):
        bundle: Bundle | None
        try:
            bundle = read_bundle(final)
        except BundleError:
            bundle = None  # there is none, or a damaged one: it is put together again from the stages
        # The recipe too: some of it, such as data.licenses, is only in the manifest.
        if bundle and bundle.manifest.recipe == inputs.recipe.model_dump(mode="json"):
            store.narrator.title("Bundle: done before, kept")
            return bundle
    assignment = read_assignment(assigned)
    members = list(inputs.split.train)
    terms = top_terms([inputs.texts[row] for row in members], assignment.labels[members], assignment.k)
    calibration = Calibration.model_validate(router.facts["calibration"])
    report = {
        "base": inputs.base.record.model_dump(),
        "rows": {
            "used": len(inputs.rows),
            "train": len(members),
            "validation": len(inputs.split.validation),
            "warmup": len(inputs.split.warmup),
            "probe": len(inputs.split.probe),
            "unusable": [asdict(row) for row in inputs.unusable],
        },
        "spectrum": start.facts,
        "calibration": centroids.facts,
        "clusters": assigned.facts,
        "terms": terms,
        "warmup": warmup.facts,
        "experts": [expert.facts for expert in experts],
        "router": calibration.model_dump() | {"encoder": inputs.encoder.name},
        "stages": {
            name: {"seconds": result.seconds, "peak_memory_mb": result.peak_memory_mb}
            for name, result in store.results.items()
        },
    }
    parts = Parts(
        base=inputs.base.record,
        chat_template=inputs.chat_template,
        warmup=warmup.folder,
        experts=[expert.folder for expert in experts],
        router_folder=router.folder / "router",
        router=RouterRecord(
            kind=inputs.recipe.router.kind,
            encoder=inputs.encoder.name,
            encoder_sha256=inputs.encoder.sha256,
            encoder_license=inputs.encoder.license,
            hidden=inputs.encoder.hidden,
        ),
        calibration=calibration,
        assignments=assigned.folder / ASSIGNMENTS,
        cluster_rows=assigned.facts["rows"],
        cluster_shares=assigned.facts["share"],
        terms=terms,
    )
    return write_bundle(final, parts, inputs.recipe, report)


def _write_run_record(run: Path, inputs: Inputs) -> None:
    record = {
        "recipe": inputs.recipe.model_dump(mode="json"),
        "git_commit": git_commit(),
        "versions": package_versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }
    (run / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
