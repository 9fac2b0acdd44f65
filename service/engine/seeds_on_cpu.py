"""Seeded requests on a CPU: the random numbers of a request can be wound back by one draw.

While a prompt is computed in several steps, each of them draws a token that is thrown away, and vLLM then winds the
request's generator back by its offset. Only generators of GPUs have one: on a CPU vLLM 0.32 ends the whole engine
("CPU Generator does not use offset") as soon as a seeded prompt is split or preempted.
vLLM's worker imports this module through `lora_on_cpu`.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

_DRAW = 4
"""By how much vLLM winds back for one draw."""
_vllms_update_states = GPUModelRunner._update_states


class RewindableGenerator(torch.Generator):
    """A CPU's generator that remembers its state before the step under way."""

    _before: torch.Tensor

    def remember(self) -> None:
        """Take note of the state, before a step draws."""
        self._before = self.get_state()

    def get_offset(self) -> int:
        """Return how far it is behind what it remembers, as vLLM asks: one draw."""
        return _DRAW

    def set_offset(self, offset: int) -> torch.Generator:
        """Wind back to what was remembered; it can't go anywhere else."""
        if offset != 0:
            raise ValueError("a CPU's generator can only be wound back by one draw")
        return self.set_state(self._before)


def rewindable(generator: torch.Generator) -> RewindableGenerator:
    """Return a generator that goes on where this one stands."""
    if isinstance(generator, RewindableGenerator):
        return generator
    made = RewindableGenerator()
    made.set_state(generator.get_state())
    return made


def _update_states(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Take over the step's requests as vLLM does, and have their generators remember where they stand."""
    done = _vllms_update_states(self, *args, **kwargs)
    batch = self.input_batch
    for index, generator in batch.generators.items():
        if generator.device.type == "cpu":
            own = batch.generators[index] = rewindable(generator)
            self.requests[batch.req_ids[index]].generator = own
            own.remember()
    return done


GPUModelRunner._update_states = _update_states  # type: ignore[method-assign]  # the CPU's runner inherits it
