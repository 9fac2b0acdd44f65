"""The whole line: rows to bundle, one stage after the other."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from bundle.errors import BundleError
from bundle.manifest import RoutedText
from bundle.read import Bundle, read_bundle
from training.bundling.bundle import Expert, Fallback, Parts, Report, write_bundle
from training.clusters.norm_shares import norm_shares
from training.clusters.quality import cluster_quality
from training.clusters.terms import top_terms
from training.errors import TrainingError
from training.models.servable import check_servable
from training.progress import Narrator
from training.recipe import Recipe
from training.report.examples import cluster_examples
from training.router.held_out import held_out_table
from training.rows.answer_end import answer_end_of, described
from training.run import Run
from training.stage_three import expert_name
from training.stages.inputs import read_inputs
from training.stages.processes import join_world
from training.stages.record import write_record
from training.stages.store import StageStore


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
        check_servable(inputs.base, recipe.train_only, narrator)
        store = StageStore(recipe.output / "stages", narrator, world)
        if world.is_first:
            write_record(recipe.output, recipe, world)
        with Run(inputs, store) as run:
            _walk(run)
            if world.is_first:
                _finish(run, recipe.output / "bundle")
            world.gather(None)
        return read_bundle(recipe.output / "bundle")


def _walk(run: Run) -> None:
    """Ask for every stage, in the paper's order: whatever is not done yet is done."""
    _ = run.plan  # before anything is trained: what does not fit is refused now
    _ = run.warmup
    _ = run.assigned, run.orders
    run.remove_gradients()
    _ = run.held_out, run.experts, run.fallback, run.router, run.gate


def _finish(run: Run, final: Path) -> None:
    """Write the bundle, unless all of it is what an earlier run left."""
    inputs, store = run.inputs, run.store
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
    members = list(inputs.split.train)
    labels = run.assigned.assignment.labels
    terms = top_terms([inputs.texts[row] for row in members], labels[members], run.assigned.k)
    write_bundle(final, _parts(run, terms), store.narrator)


def _parts(run: Run, terms: Sequence[Sequence[str]]) -> Parts:
    """Return what goes into the bundle; `terms` are each cluster's typical words [K]."""
    inputs, recipe, assigned, router = run.inputs, run.inputs.recipe, run.assigned, run.router
    rows = zip(run.experts, assigned.rows, assigned.shares, terms, strict=True)
    gate = run.gate.record if run.gate else None
    names = [expert_name(label) for label in range(assigned.k)]
    end = answer_end_of(inputs.tokenizer, inputs.rows)
    run.store.narrator.say(f"    answers end with {described(inputs.tokenizer, end)}")
    return Parts(
        base=inputs.base,
        chat_template=inputs.chat_template,
        labels=names,
        experts=[
            Expert(names[label], expert.folder, count, share, words)
            for label, (expert, count, share, words) in enumerate(rows)
            if gate is None or gate.labels[label].threshold is not None
        ],
        fallback=Fallback(recipe.fallback.train, adapter=(run.fallback or run.warmup).folder),
        router_folder=router.router_folder,
        router=router.made.record,
        routed_text=RoutedText(
            rule=recipe.router.routed_text, max_tokens=recipe.router.max_tokens, keeps="head_and_tail"
        ),
        answer_end=end,
        calibration=router.made.calibration,
        data=recipe.data.files,
        data_licenses=recipe.data.licenses,
        recipe=recipe.model_dump(mode="json"),
        report=Report(
            _report(run, terms),
            assigned.assignments,
            held_out_table(inputs, run.held_out),
            router.others_folder,
            run.gate.table if run.gate else None,
        ),
        gate=gate,
    )


def _report(run: Run, terms: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Return what the report is made of (`training.report.report.write_report`)."""
    inputs, assignment, made = run.inputs, run.assigned.assignment, run.router.made
    members, probe = list(inputs.split.train), list(inputs.split.probe)
    on_all_rows = {"shared": run.shared if run.shared is not run.warmup else None, "fallback": run.fallback}
    return {
        "base": inputs.base.record.model_dump(),
        "rows": {
            "used": len(inputs.rows),
            "train": len(members),
            "validation": len(inputs.split.validation),
            "held_out": len(inputs.held_out),
            "warmup": len(inputs.split.warmup),
            "probe": len(inputs.split.probe),
            "unusable": [asdict(row) for row in inputs.unusable],
            "files": [file.summary() for file in inputs.files],
            "repeats": asdict(inputs.repeats),
        },
        "spectrum": run.start.spectrum,
        "calibration": run.centroids.written,
        "clusters": run.assigned.clusters,
        "terms": terms,
        "quality": cluster_quality(
            run.start.gram().numpy(), assignment.norm[probe], assignment.labels[probe], assignment.k
        ),
        "norm_shares": norm_shares(run.start.factor_shares.items()),
        "examples": cluster_examples(inputs.rows, members, assignment, inputs.words),
        "shuffle": run.orders.written,
        "diagnosis": run.checked.checks,
        "plan": run.plan.summary(),
        "warmup": run.warmup.written,
        "experts": [expert.written for expert in run.experts],
        "on_all_rows": {name: adapter.written for name, adapter in on_all_rows.items() if adapter},
        "gate": run.gate.written if run.gate else None,
        "router": made.record.model_dump() | made.calibration.model_dump() | made.found,
        "stages": {
            name: {"seconds": result.seconds, "peak_memory_mb": result.peak_memory_mb}
            for name, result in run.store.results.items()
        },
    }


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
