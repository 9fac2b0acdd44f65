"""The whole line: rows to bundle, one stage after the other."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from bundle.errors import BundleError
from bundle.manifest import Calibration, RoutedText, RouterRecord
from bundle.read import Bundle, read_bundle
from training.bundling.bundle import Expert, Fallback, Parts, Report, write_bundle
from training.clusters.assignment import Assignment
from training.clusters.norm_shares import norm_shares
from training.clusters.quality import cluster_quality
from training.clusters.terms import top_terms
from training.errors import TrainingError
from training.gradients.supply import GradientSupply
from training.memory.plan import Plan
from training.memory.planning import plan_clusters
from training.progress import Narrator
from training.recipe import Recipe
from training.report.examples import cluster_examples
from training.router.held_out import HeldOut, held_out_table, label_held_out
from training.router.making import OTHERS
from training.stage_one import warm_up
from training.stage_three import expert_name, train_experts, train_fallback, train_router, train_shared
from training.stage_two import (
    ASSIGNMENTS,
    assign_rows,
    calibrate_centroids,
    check_gradients,
    compare_orders,
    read_assignment,
    read_gram,
    start_clusters,
)
from training.stages.inputs import Inputs, read_inputs
from training.stages.processes import World, join_world
from training.stages.provenance import git_commit, package_versions
from training.stages.store import StageResult, StageStore


def train(recipe: Recipe, narrator: Narrator) -> Bundle:
    """Run every stage that is not done yet and return the finished bundle.

    Under `torchrun` or `accelerate launch` every process calls this and they share the work.

    Raises:
        TrainingError: something the user can mend, said in one sentence.

    """
    if recipe.output is None:
        raise TrainingError("No run folder is given. Use --output FOLDER.")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    with join_world() as world, _naming_a_full_disk(recipe.output):
        if not world.is_first:
            narrator.silence()
        inputs = read_inputs(recipe, narrator)
        store = StageStore(recipe.output / "stages", narrator, world)
        if world.is_first:
            _write_run_record(recipe.output, inputs, world)
        plan = plan_clusters(inputs, store)
        warmup = warm_up(inputs, store)
        clusters = cluster(inputs, store, warmup, plan)
        assignment = read_assignment(clusters.assigned)
        held_out = label_held_out(inputs, store, warmup, clusters.centroids, clusters.assigned, assignment)
        start = train_shared(inputs, store, warmup)
        experts = train_experts(inputs, store, start, clusters.assigned, assignment)
        fallback = train_fallback(inputs, store, warmup)
        router = train_router(
            inputs, store, warmup, clusters.centroids, clusters.assigned, assignment, held_out
        )
        if world.is_first:
            _finish(inputs, store, warmup, clusters, assignment, held_out, experts, fallback, router)
        world.gather(None)
        return read_bundle(recipe.output / "bundle")


@dataclass(frozen=True)
class Clusters:
    """What Stage II left: a result per stage, and the plan it followed."""

    checked: StageResult
    start: StageResult
    centroids: StageResult
    assigned: StageResult
    orders: StageResult
    plan: Plan


def cluster(inputs: Inputs, store: StageStore, warmup: StageResult, plan: Plan) -> Clusters:
    """Run Stage II (section 5.3) from the warm-up adapter."""
    checked = check_gradients(inputs, store, warmup)
    with GradientSupply(inputs, store, warmup, checked.facts["dimension"], plan.gradients) as supply:
        start = start_clusters(inputs, store, warmup, checked, supply, plan)
        centroids = calibrate_centroids(inputs, store, start, supply, plan)
        assigned = assign_rows(inputs, store, centroids, supply)
        orders = compare_orders(inputs, store, start, centroids, supply, plan)
        supply.remove()
    return Clusters(checked, start, centroids, assigned, orders, plan)


def _finish(
    inputs: Inputs,
    store: StageStore,
    warmup: StageResult,
    clusters: Clusters,
    assignment: Assignment,
    held_out: HeldOut,
    experts: Sequence[StageResult],
    fallback: StageResult | None,
    router: StageResult,
) -> None:
    start, centroids, assigned = clusters.start, clusters.centroids, clusters.assigned
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
            return
    members, probe = list(inputs.split.train), list(inputs.split.probe)
    terms = top_terms([inputs.texts[row] for row in members], assignment.labels[members], assignment.k)
    calibration = Calibration.model_validate(router.facts["calibration"])
    report = {
        "base": inputs.base.record.model_dump(),
        "rows": {
            "used": len(inputs.rows),
            "train": len(members),
            "validation": len(inputs.split.validation),
            "held_out": len(inputs.held_out),
            "warmup": len(inputs.split.warmup),
            "probe": len(inputs.split.probe),
            "unusable": [asdict(row) for row in inputs.unusable],
        },
        "spectrum": {key: value for key, value in start.facts.items() if key != "factor_shares"},
        "calibration": centroids.facts,
        "clusters": assigned.facts,
        "terms": terms,
        "quality": cluster_quality(
            read_gram(start).numpy(), assignment.norm[probe], assignment.labels[probe], assignment.k
        ),
        "norm_shares": norm_shares(start.facts["factor_shares"].items()),
        "examples": cluster_examples(inputs.rows, members, assignment, inputs.words),
        "shuffle": clusters.orders.facts,
        "diagnosis": clusters.checked.facts["checks"],
        "plan": clusters.plan.summary(),
        "warmup": warmup.facts,
        "experts": [expert.facts for expert in experts],
        "on_all_rows": {
            name: store.results[name].facts for name in ("shared", "fallback") if name in store.results
        },
        "router": router.facts["router"] | calibration.model_dump() | router.facts["found"],
        "stages": {
            name: {"seconds": result.seconds, "peak_memory_mb": result.peak_memory_mb}
            for name, result in store.results.items()
        },
    }
    recipe = inputs.recipe
    parts = Parts(
        base=inputs.base,
        chat_template=inputs.chat_template,
        experts=[
            Expert(expert_name(label), expert.folder, assigned.facts["rows"][label], share, terms[label])
            for label, (expert, share) in enumerate(zip(experts, assigned.facts["share"], strict=True))
        ],
        fallback=Fallback(recipe.fallback.train, adapter=(fallback or warmup).folder),
        router_folder=router.folder / "router",
        router=RouterRecord.model_validate(router.facts["router"]),
        routed_text=RoutedText(
            rule=recipe.router.routed_text, max_tokens=recipe.router.max_tokens, keeps="head_and_tail"
        ),
        calibration=calibration,
        data=recipe.data.files,
        data_licenses=recipe.data.licenses,
        recipe=recipe.model_dump(mode="json"),
        report=Report(
            report, assigned.folder / ASSIGNMENTS, held_out_table(inputs, held_out), router.folder / OTHERS
        ),
    )
    write_bundle(final, parts, store.narrator)


@contextmanager
def _naming_a_full_disk(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise TrainingError(
            f"The disk of {run} is full ({error.strerror}). Free some and start the same command again: what was "
            "finished is kept, and it goes on from there."
        ) from error


def _write_run_record(run: Path, inputs: Inputs, world: World) -> None:
    record = {
        "recipe": inputs.recipe.model_dump(mode="json"),
        "git_commit": git_commit(),
        "versions": package_versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "processes": world.size,
    }
    (run / "run.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
