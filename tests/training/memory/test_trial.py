"""The trial of seconds: the fewest threads that are as fast, nothing left behind, no download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.stand_ins.tiny_model import ROOT
from training.memory import trial as module
from training.memory.planning import minutes
from training.memory.trial import Trial, has_weights, may_choose_threads, try_out
from training.models.base_model import find_base
from training.recipe import BaseSection, LoraSection
from training.rows.rendering import TokenRow


def tried(monkeypatch: pytest.MonkeyPatch, speeds: dict[int, float]) -> Trial:
    """Try the demo's base on a machine on which `speeds` are what threads bring."""
    base = find_base(BaseSection(model=str(ROOT / "demo" / "base"), dtype="float32"))
    rows = [TokenRow("", None, "a prompt", (5,) * length, 4) for length in (8, 9, 10)]
    monkeypatch.setattr(module, "_candidates", lambda: list(speeds))
    monkeypatch.setattr(module, "may_choose_threads", lambda: True)

    def measured(work: object, most_seconds: float) -> float:
        assert callable(work)
        work()
        return speeds[torch.get_num_threads()]

    monkeypatch.setattr(module, "_per_second", measured)
    return try_out(base, LoraSection(rank=2), base.tokenizer(), rows, lambda texts: len(texts))


@pytest.mark.parametrize(
    ("speeds", "threads"),
    [
        ({2: 1.0, 1: 5.0}, 1),  # two busy cores
        ({4: 4.0, 2: 2.0, 1: 1.0}, 4),
        ({4: 2.05, 2: 2.0, 1: 1.0}, 2),  # as fast, and two are left to others
    ],
)
def test_the_fewest_threads_that_are_as_fast_are_taken(
    speeds: dict[int, float], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    found = tried(monkeypatch, speeds)
    assert found.threads == threads
    assert set(found.tried) == {str(count) for count in speeds}
    assert found.trained_tokens == found.tried[str(threads)]
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_who_chose_already_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert not may_choose_threads()
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert may_choose_threads() != torch.cuda.is_available()
    assert module._candidates() == [8, 4, 2, 1]


def test_weights_have_to_be_in_a_folder_here(tmp_path: Path) -> None:
    assert has_weights(str(ROOT / "demo" / "base"))
    assert not has_weights(str(ROOT / "recipes" / "shapes" / "smollm2-135m"))
    assert not has_weights("some/model-of-a-hub")


def test_times_as_people_say_them() -> None:
    assert [minutes(seconds) for seconds in (0.2, 89, 600, 9000)] == ["1 s", "89 s", "10 min", "2.5 h"]
