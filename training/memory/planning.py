"""What Stage II will take, decided once for a run and kept: a rerun follows the plan that it began with."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from training.memory.finetuning import FineTuning, StepFit, fit_step
from training.memory.machine import Budget, measure_budget
from training.memory.model_shape import ModelShape, read_shape
from training.memory.plan import Plan, RowCounts, plan_stage_two
from training.memory.sizes import gigabytes
from training.memory.trial import Trial, may_choose_threads, try_out
from training.models.expert_schedules import shared_at_most
from training.models.finetune import Schedule
from training.recipe import Recipe
from training.stages.inputs import Inputs
from training.stages.store import Stage, StageStore

_TRIED_ROWS = 64
_PLANNED_WITH = {
    *("k", "k_max", "batch_rows", "cache_batches", "max_epochs", "micro_batch_tokens"),
    *("cache", "gradients"),
}


def with_finetuning(
    plan: Plan, recipe: Recipe, shape: ModelShape, rows: RowCounts, weight_bytes: int, budget: Budget
) -> Plan:
    """Add to a plan of Stage II how the other stages' fine-tuning fits the same budget.

    Raises:
        TrainingError: not even one row fits.

    """
    given = FineTuning(shape, weight_bytes, recipe.lora.dropout, rows.longest, rows.longest_completion)
    sizes = sorted({recipe.warmup.batch_rows, recipe.experts.batch_rows})
    steps = [fit_step(given, recipe.train, size, budget) for size in sizes]
    peak = max(step.peak_bytes for step in steps)
    return replace(
        plan,
        phases={"fine-tuning": peak} | plan.phases,
        finetuning={str(step.batch_rows): asdict(step) for step in steps},
    )


def with_trial(plan: Plan, recipe: Recipe, rows: RowCounts, mean_tokens: float, trial: Trial) -> Plan:
    """Add to a plan what a trial says of every stage's time; each but the router's counts tokens."""
    training, experts = recipe.warmup, recipe.experts
    warmup = Schedule(training.epochs, 0, training.batch_rows, training.at_least_steps)
    warmup_rows = max(1, round(recipe.split.warmup * rows.train))
    shared = shared_at_most(experts)
    both = (
        2 if recipe.fallback.train == "everything" else 1
    )  # after the split: the experts, and one LoRA beside them
    on_all = experts.epochs * rows.train * (shared + both * (1 - shared))
    seconds = {
        "warm-up": warmup.steps(warmup_rows)
        * min(training.batch_rows, warmup_rows)
        * mean_tokens
        / trial.trained_tokens,
        "gradients": plan.computed_rows * mean_tokens / trial.gradient_tokens,
        "experts": on_all * mean_tokens / trial.trained_tokens,
    }
    if trial.encoded_texts:
        seconds["router"] = rows.total / trial.encoded_texts
    return replace(plan, trial=asdict(trial), seconds=seconds)


def said_time(plan: Plan) -> str:
    """The estimate in one line."""
    parts = ", ".join(f"{stage} {minutes(seconds)}" for stage, seconds in plan.seconds.items())
    return f"about {minutes(sum(plan.seconds.values()))} ({parts})"


def minutes(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plan_clusters(inputs: Inputs, store: StageStore) -> Plan:
    """Plan Stage II for these rows on this machine, before anything is trained.

    Raises:
        TrainingError: Stage II would not fit its budget, whatever is chosen.

    """
    recipe, section = inputs.recipe, inputs.recipe.clusters
    rows = RowCounts(
        total=len(inputs.rows),
        train=len(inputs.split.train),
        probe=len(inputs.split.probe),
        longest=max(inputs.lengths),
        longest_completion=max(row.trained_tokens for row in inputs.rows),
    )
    budget = measure_budget(recipe.memory_budget, recipe.disk_budget, store.folder, store.world.size)
    depends_on = {
        "rows": asdict(rows),
        "base": inputs.base.record.model_dump(),
        "lora": recipe.lora.model_dump(),
        "clusters": section.model_dump(include=_PLANNED_WITH),
        "train": recipe.train.model_dump(include={"micro_batch_rows", "gradient_checkpointing", "threads"}),
        "batch_rows": [recipe.warmup.batch_rows, recipe.experts.batch_rows],
        "dropout": recipe.lora.dropout,
        "budgets": [recipe.memory_budget, recipe.disk_budget],
        "memory": budget.memory_bytes,  # the disk's free room is left out: a run changes it itself
        "processes": store.world.size,
    }

    def work(folder: Path) -> dict[str, Any]:
        shape = read_shape(str(inputs.base.folder), recipe.lora)
        plan = plan_stage_two(shape, section, rows, budget)
        weight_bytes = 4 if inputs.base.record.dtype == "float32" else 2
        planned = with_finetuning(plan, recipe, shape, rows, weight_bytes, budget)
        if recipe.train.threads is None and store.world.size == 1 and may_choose_threads():
            encoder, most = inputs.encoder, recipe.router.max_tokens
            some = inputs.rows[:_TRIED_ROWS]
            trial = try_out(
                inputs.base, recipe.lora, inputs.tokenizer, some, lambda texts: encoder.embed(texts, most)
            )
            mean = sum(inputs.lengths) / len(inputs.lengths)
            planned = with_trial(planned, recipe, rows, mean, trial)
        return asdict(planned)

    done = store.deal_out([(Stage("plan", "What the run will take", depends_on), work)])[0]
    plan = Plan(**(done.facts | {"warnings": tuple(done.facts["warnings"])}))
    say = store.narrator.say
    say(
        f"    d = {plan.dimension:,}; peak memory about {gigabytes(plan.peak_bytes)}, at most {plan.passes:.1f} passes"
    )
    for step in plan.finetuning.values():
        say(f"    fine-tuning: {StepFit(**step).said}; about {gigabytes(step['peak_bytes'])}")
    if recipe.train.threads or (plan.trial and may_choose_threads()):
        threads = recipe.train.threads or int((plan.trial or {})["threads"])
        torch.set_num_threads(threads)
        say(
            f"    threads: {threads}"
            + ("" if recipe.train.threads else ", the fastest of a trial's, or as fast")
        )
    if plan.trial:
        say(f"    time: {said_time(plan)}")
    say(f"    gradients: {plan.gradients} ({plan.gradients_reason})")
    say(f"    cluster cache: {plan.cache} ({plan.cache_reason})")
    for warning in plan.warnings:
        store.narrator.warn(warning)
    return plan
