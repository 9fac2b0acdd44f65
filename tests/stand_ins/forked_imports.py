"""What the server that forks the tests' processes imports once."""

from __future__ import annotations

import gc

import torch

import tests.stand_ins.killed_line
import tests.stand_ins.stage_two_run
import tests.stand_ins.two_processes
import training.pipeline

__all__ = ["tests", "training"]

torch.set_num_threads(1)
# Every stage collects garbage when it ends; what is imported need not be looked at each time.
gc.collect()
gc.freeze()
