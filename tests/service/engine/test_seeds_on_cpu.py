"""A CPU's generator goes back by one draw, as vLLM asks for when it throws a token away."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch


def test_a_draw_that_is_thrown_away_changes_no_later_one() -> None:
    from service.engine.seeds_on_cpu import rewindable

    plain = torch.Generator()
    plain.manual_seed(7)
    generator = rewindable(plain)
    expected = [torch.empty(5).exponential_(generator=plain) for _ in range(3)]
    seen = []
    for thrown_away in (True, True, False, True, False, False):
        generator.remember()
        drawn = torch.empty(5).exponential_(generator=generator)
        if thrown_away:
            generator.set_offset(generator.get_offset() - 4)  # as vLLM's model runner does
        else:
            seen.append(drawn)
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=True))
    assert rewindable(generator) is generator


def test_vllms_runner_gets_such_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    from service.engine import lora_on_cpu, seeds_on_cpu

    assert lora_on_cpu.seeds_on_cpu is seeds_on_cpu
    assert CPUModelRunner._update_states is seeds_on_cpu._update_states
    monkeypatch.setattr(seeds_on_cpu, "_vllms_update_states", lambda *_: None)
    given = torch.Generator()
    batch = SimpleNamespace(generators={0: given}, req_ids=["a"])
    runner = SimpleNamespace(input_batch=batch, requests={"a": SimpleNamespace(generator=given)})
    seeds_on_cpu._update_states(runner)
    assert isinstance(batch.generators[0], seeds_on_cpu.RewindableGenerator)
    assert runner.requests["a"].generator is batch.generators[0]
