"""Run Stage II as its plan says, on random rows over a real base, and print the plan's peak and the real one.

A process of its own: the highest point of memory is a process's.
`python stage_two_peak.py BASE RANK MICRO_BATCH_TOKENS CACHE GRADIENTS ROWS LONGEST SCRATCH`, run in the project's root.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from training.clusters.assignment import compare_rows
from training.clusters.centroids import Movement, calibrate
from training.clusters.gram import ProbeGradients
from training.gradients.row_gradients import RowGradients
from training.gradients.source import Recomputed
from training.gradients.store import StoredGradients
from training.memory.machine import measure_budget
from training.memory.model_shape import read_shape
from training.memory.plan import RowCounts, plan_stage_two
from training.progress import ignore_progress
from training.recipe import ClustersSection, LoraSection
from training.rows.rendering import TokenRow
from training.stages.checkpoint import Checkpoint
from training.stages.processes import World

BASE, RANK, TOKENS, CACHE, GRADIENTS, ROWS, LONGEST, SCRATCH = sys.argv[1:]


def adapted() -> PeftModel:
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32, attn_implementation="sdpa")
    config = LoraConfig(r=int(RANK), target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    return model


def highest() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    lengths = torch.randint(int(LONGEST) // 3, int(LONGEST) + 1, (int(ROWS),)).tolist()
    lengths[0] = int(LONGEST)
    rows = [
        TokenRow(str(number), None, "", tuple(torch.randint(5, 4000, (length,)).tolist()), length // 2)
        for number, length in enumerate(lengths)
    ]
    probe = range(len(rows) // 4)
    section = ClustersSection(
        k=1, max_epochs=1, cache_batches=3, micro_batch_tokens=int(TOKENS), cache=CACHE, gradients=GRADIENTS
    )
    longest_completion = max(len(row.input_ids) - row.prompt_length for row in rows)
    counts = RowCounts(len(rows), len(rows), len(probe), int(LONGEST), longest_completion)
    room = measure_budget(None, None, Path(SCRATCH))
    plan = plan_stage_two(read_shape(BASE, LoraSection(rank=int(RANK))), section, counts, room)
    world = World()
    never = Checkpoint(Path(SCRATCH) / "checkpoint", "digest", float("inf"), world)
    with RowGradients(adapted(), 0, section.micro_batch_tokens) as source:
        if plan.gradients == "disk":
            supply = StoredGradients(Path(SCRATCH), "digest", lengths, source.dimension, world)
            supply.fill(source, rows, ignore_progress)
        else:
            supply = Recomputed(source, rows, world)
        gradients = ProbeGradients(supply, probe, plan.probe_block_rows, world)
        gradients.gram(never)
        weights = torch.randn(len(probe), section.k, dtype=torch.float64)
        start = normalize(gradients.weighted_sums(weights), dim=1)
        after_probe = highest()
        del gradients
        movement = Movement(plan.cache, plan.look_ahead_batches)
        done = calibrate(supply, range(len(rows)), start, section, movement, 0, never, ignore_progress)
        compare_rows(supply, lengths, done.centroids, never, ignore_progress)
    found = {"measured": highest(), "predicted": plan.peak_bytes, "resident": room.resident_bytes}
    print(json.dumps(found | {"phases": plan.phases, "after_probe": after_probe, "d": plan.dimension}))


if __name__ == "__main__":
    main()
