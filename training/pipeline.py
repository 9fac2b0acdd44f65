"""The whole line: rows to bundle, one stage after the other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers.utils import logging as transformers_logging

from bundle.errors import BundleError
from bundle.manifest import Calibration, RouterRecord
from bundle.read import Bundle, read_bundle
from training.adapter_check import check_adapter
from training.assignment import Assignment, assign
from training.bundling import Parts, git_commit, package_versions, write_bundle
from training.calibration import calibrate
from training.cluster_count import choose_clusters
from training.errors import TrainingError
from training.finetune import Schedule, Tuned, finetune, load_adapter, new_adapter
from training.gram import ProbeGradients
from training.inputs import Inputs, read_inputs
from training.progress import Narrator
from training.recipe import Recipe
from training.rendering import TokenRow
from training.report import cluster_facts, write_assignments
from training.router_export import write_router
from training.router_head import agreement, fit_head, fit_temperature
from training.row_gradients import RowGradients
from training.stages import StageResult, StageStore
from training.terms import top_terms

_MEGABYTE = 1 << 20
_CENTROIDS = "centroids.safetensors"
_ASSIGNMENTS = "assignments.parquet"


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
    warmup = _warm_up(inputs, store)
    start = _start_clusters(inputs, store, warmup)
    centroids = _calibrate(inputs, store, warmup, start)
    assigned = _assign(inputs, store, warmup, centroids)
    assignment = _read_assignment(assigned)
    experts = [
        _train_expert(inputs, store, warmup, assigned, assignment, label) for label in range(assignment.k)
    ]
    router = _train_router(inputs, store, assigned, assignment)
    return _finish(inputs, store, start, centroids, assigned, warmup, experts, router)


def _warm_up(inputs: Inputs, store: StageStore) -> StageResult:
    recipe = inputs.recipe
    schedule = Schedule(
        recipe.warmup.epochs,
        recipe.warmup.learning_rate,
        recipe.warmup.batch_rows,
        recipe.warmup.at_least_steps,
    )
    rows = inputs.pick(inputs.split.warmup)

    def work(folder: Path) -> dict[str, Any]:
        model = new_adapter(inputs.base, recipe.lora, recipe.seed)
        check_adapter(model)  # a base that Stage II would refuse is refused before anything is trained
        return asdict(_tune(inputs, store, model, rows, schedule, folder))

    depends_on = {
        "inputs": inputs.digest,
        "base": inputs.base.record.model_dump(),
        "lora": recipe.lora.model_dump(),
        "warmup": recipe.warmup.model_dump(),
        "split": recipe.split.model_dump(),
        "seed": recipe.seed,
    }
    return store.run("warmup", "Stage I: warm-up adapter", depends_on, work)


def _start_clusters(inputs: Inputs, store: StageStore, warmup: StageResult) -> StageResult:
    section = inputs.recipe.clusters
    rows = inputs.pick(inputs.split.probe)

    def work(folder: Path) -> dict[str, Any]:
        with _row_gradients(inputs, warmup) as source:
            source.check_head(rows[:4])
            probe = ProbeGradients(source, rows, section.probe_memory_mb * _MEGABYTE)
            with store.narrator.bar("probe gradients", probe.computed_rows, "rows") as advance:
                gram = probe.gram(advance)  # [n, n]
                start = choose_clusters(gram, section, inputs.recipe.seed)
                centroids = normalize(probe.weighted_sums(start.weights, advance), dim=1)  # [K, d]
        save_file({"centroids": centroids.cpu()}, folder / _CENTROIDS)
        store.narrator.say(f"    K = {start.k}, in {start.components} directions; d = {source.dimension:,}")
        return start.summary() | {"dimension": source.dimension}

    # Neither of the two left out can change what is computed here.
    choices = section.model_dump(exclude={"min_rows", "micro_batch_tokens"})
    depends_on = {"warmup": warmup.digest, "clusters": choices}
    return store.run("start", "Stage II: the number of clusters and where they start", depends_on, work)


def _calibrate(inputs: Inputs, store: StageStore, warmup: StageResult, start: StageResult) -> StageResult:
    section = inputs.recipe.clusters
    rows = inputs.pick(inputs.split.train)

    def work(folder: Path) -> dict[str, Any]:
        with (
            _row_gradients(inputs, warmup) as source,
            store.narrator.bar("row gradients", len(rows) * section.max_epochs, "rows at most") as advance,
        ):
            first = load_file(start.folder / _CENTROIDS)["centroids"].to(source.device)
            done = calibrate(source, rows, first, section, inputs.recipe.seed, advance)
        save_file({"centroids": done.centroids.cpu()}, folder / _CENTROIDS)
        if not done.converged:
            store.narrator.warn(
                f"the centroids still move after {section.max_epochs} epochs (clusters.max_epochs)"
            )
        return {"epochs": [asdict(epoch) for epoch in done.epochs], "converged": done.converged}

    return store.run("centroids", "Stage II: centroid calibration", {"start": start.digest}, work)


def _assign(inputs: Inputs, store: StageStore, warmup: StageResult, centroids: StageResult) -> StageResult:
    counted = np.zeros(len(inputs.rows), dtype=bool)
    counted[list(inputs.split.train)] = True

    def work(folder: Path) -> dict[str, Any]:
        with (
            _row_gradients(inputs, warmup) as source,
            store.narrator.bar("row gradients", len(inputs.rows), "rows") as advance,
        ):
            final = load_file(centroids.folder / _CENTROIDS)["centroids"].to(source.device)
            done = assign(source, inputs.rows, counted, final, inputs.recipe.clusters.min_rows, advance)
        write_assignments(folder / _ASSIGNMENTS, inputs.rows, inputs.split, done)
        facts = cluster_facts(inputs.rows, inputs.split, done)
        for warning in done.warnings:
            store.narrator.warn(warning)
        store.narrator.say(f"    rows per cluster: {', '.join(f'{size:,}' for size in facts['rows'])}")
        return facts | {"labels_sha256": hashlib.sha256(done.labels.tobytes()).hexdigest()}

    depends_on = {
        "centroids": centroids.digest,
        "min_rows": inputs.recipe.clusters.min_rows,
        "origins": inputs.origins_digest,
    }
    return store.run("assignment", "Stage II: final assignment", depends_on, work)


def _train_expert(
    inputs: Inputs,
    store: StageStore,
    warmup: StageResult,
    assigned: StageResult,
    assignment: Assignment,
    label: int,
) -> StageResult:
    recipe = inputs.recipe
    schedule = Schedule(recipe.experts.epochs, recipe.experts.learning_rate, recipe.experts.batch_rows)
    rows = inputs.pick([row for row in inputs.split.train if assignment.labels[row] == label])

    def work(folder: Path) -> dict[str, Any]:
        model = load_adapter(inputs.base, warmup.folder, trainable=True)
        return asdict(_tune(inputs, store, model, rows, schedule, folder))

    depends_on = {
        "warmup": warmup.digest,
        "labels": assigned.facts["labels_sha256"],
        "label": label,
        "experts": recipe.experts.model_dump(),
    }
    title = f"Stage III: expert {label + 1} of {assignment.k} ({len(rows):,} rows)"
    return store.run(f"expert-{label}", title, depends_on, work)


def _train_router(
    inputs: Inputs, store: StageStore, assigned: StageResult, assignment: Assignment
) -> StageResult:
    section, encoder = inputs.recipe.router, inputs.encoder
    train_rows, held_out = list(inputs.split.train), list(inputs.split.validation)
    texts = [row.routed_text for row in inputs.rows]

    def work(folder: Path) -> dict[str, Any]:
        with store.narrator.bar("encoding prompts", len(texts), "rows") as advance:
            embeddings = encoder.embed(texts, section.max_tokens, advance)  # [N, H]
        head = fit_head(
            embeddings[train_rows], assignment.labels[train_rows], assignment.k, inputs.recipe.seed
        )
        logits, labels = head.logits(embeddings[held_out]), assignment.labels[held_out]  # [V, K], [V]
        calibration = Calibration(
            temperature=fit_temperature(logits, labels),
            held_out_rows=len(held_out),
            agreement=agreement(logits, labels),
        )
        names = tuple(f"expert-{label}" for label in range(assignment.k))
        samples = [texts[row] for row in held_out[:16]]
        write_router(folder / "router", encoder, head, names, samples, section.max_tokens)
        store.narrator.say(
            f"    agrees with the clusters on {100 * calibration.agreement:.1f} % of {len(held_out)} held-out rows"
        )
        return {"calibration": calibration.model_dump(), "hidden": encoder.hidden}

    depends_on = {
        "inputs": inputs.digest,
        "labels": assigned.facts["labels_sha256"],
        "router": section.model_dump(),
        "encoder": encoder.sha256,
        "seed": inputs.recipe.seed,
    }
    return store.run("router", f"Stage III: router on {encoder.name}", depends_on, work)


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
    assignment = _read_assignment(assigned)
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
        assignments=assigned.folder / _ASSIGNMENTS,
        cluster_rows=assigned.facts["rows"],
        cluster_shares=assigned.facts["share"],
        terms=terms,
    )
    return write_bundle(final, parts, inputs.recipe, report)


def _tune(
    inputs: Inputs,
    store: StageStore,
    model: Any,
    rows: Sequence[TokenRow],
    schedule: Schedule,
    folder: Path,
) -> Tuned:
    with store.narrator.bar("fine-tuning", schedule.steps(len(rows)), "steps") as advance:
        tuned = finetune(model, inputs.tokenizer, rows, schedule, inputs.recipe.seed, folder, advance)
    store.narrator.say(f"    loss {tuned.first_loss:.3f} -> {tuned.last_loss:.3f} in {tuned.steps} steps")
    return tuned


def _row_gradients(inputs: Inputs, warmup: StageResult) -> RowGradients:
    model = load_adapter(inputs.base, warmup.folder, trainable=False, dtype=torch.float32)
    return RowGradients(
        model,
        pad_id=int(inputs.tokenizer.pad_token_id),
        token_budget=inputs.recipe.clusters.micro_batch_tokens,
    )


def _read_assignment(assigned: StageResult) -> Assignment:
    table = pq.read_table(assigned.folder / _ASSIGNMENTS)
    columns = {name: table[name].to_numpy() for name in ("cosine", "margin", "norm", "norm_share_b")}
    return Assignment(
        labels=table["label"].to_numpy(),
        k=assigned.facts["k"],
        warnings=tuple(assigned.facts["warnings"]),
        **columns,
    )


def _write_run_record(run: Path, inputs: Inputs) -> None:
    record = {
        "recipe": inputs.recipe.model_dump(mode="json"),
        "git_commit": git_commit(),
        "versions": package_versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
    }
    (run / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
