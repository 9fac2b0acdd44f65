from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from router.prompt_memory import PromptMemory
from router.protocol import Answer, Router
from router.served import ServedRouter

SURROGATE = "half \ud83d a smile"


def row(number: float) -> NDArray[np.float32]:
    return np.array([number, 1 - number], np.float32)


def answer(number: float, unfamiliar: bool = False) -> Answer:
    return Answer(row(number), unfamiliar)


def _read(memory: PromptMemory, text: str) -> tuple[list[float], bool]:
    known = memory.get(text)
    assert known is not None
    return known.probabilities.tolist(), known.unfamiliar


def test_the_same_text_and_no_other_is_found() -> None:
    memory = PromptMemory("bundle", 10)
    assert memory.get("a text") is None
    memory.put("a text", answer(0.25, unfamiliar=True))
    memory.put(SURROGATE, answer(0.5))
    assert _read(memory, "a text") == ([0.25, 0.75], True)
    assert _read(memory, SURROGATE) == ([0.5, 0.5], False)
    for other in ("a text ", "A text", "", "half ? a smile"):
        assert memory.get(other) is None


def test_what_was_not_asked_for_the_longest_leaves_first() -> None:
    memory = PromptMemory("bundle", 2)
    memory.put("a", answer(0.1))
    memory.put("b", answer(0.2))
    memory.get("a")
    memory.put("c", answer(0.3))
    assert [memory.get(text) is not None for text in "abc"] == [True, False, True]


def test_bytes_are_bounded_as_well() -> None:
    many = Answer(np.full(1000, 1e-3, np.float32), unfamiliar=False)
    memory = PromptMemory("bundle", 10_000, most_bytes=100_000)
    for number in range(200):
        memory.put(f"text {number}", many)
        memory.put(f"text {number}", many)  # a text that is put again weighs once
    assert 20 <= len(memory) <= 25
    assert memory.get("text 199") is not None
    assert memory.get("text 0") is None


def test_with_no_entries_nothing_is_remembered_and_a_failure_never() -> None:
    none, memory = PromptMemory("bundle", 0), PromptMemory("bundle", 10)
    none.put("a", answer(0.5))
    memory.put("a", answer(np.nan))
    assert none.get("a") is None
    assert memory.get("a") is None


def test_bundles_share_nothing() -> None:
    one, other = PromptMemory("one", 10), PromptMemory("other", 10)
    one.put("a", answer(0.25))
    other._rows = one._rows  # even if they did share their rows
    assert one.get("a") is not None
    assert other.get("a") is None


class Counting(Router):
    labels = ("expert-0", "expert-1")

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        if "bad" in texts:
            raise RuntimeError("the router broke")
        return np.array([row(len(text) / 10) for text in texts])


@pytest.mark.parametrize(("entries", "calls"), [(10, 1), (0, 3)])
async def test_a_repeated_prompt_asks_the_router_once(entries: int, calls: int) -> None:
    router = Counting()
    served = ServedRouter(router, PromptMemory("bundle", entries), 60, 1024)
    answers = [await served.route(["abc"]) for _ in range(3)]
    served.close()
    assert len(router.calls) == calls
    assert [each.remembered for each in answers] == ([0, 1, 1] if entries else [0, 0, 0])
    for each in answers:
        assert each.probabilities.tolist() == [row(0.3).tolist()]


async def test_a_list_keeps_its_order_whatever_is_remembered_of_it() -> None:
    router = Counting()
    served = ServedRouter(router, PromptMemory("bundle", 10), 60, 1024)
    await served.route(["aa", "cccc"])
    found = await served.route(["b", "aa", "dd", "b", "cccc", ""])
    served.close()
    assert found.probabilities[:, 0].tolist() == pytest.approx([0.1, 0.2, 0.2, 0.1, 0.4, 0.0])
    assert found.remembered == 2
    assert sorted(text for call in router.calls for text in call) == ["", "aa", "b", "cccc", "dd"]


async def test_an_error_is_not_remembered() -> None:
    router = Counting()
    served = ServedRouter(router, PromptMemory("bundle", 10), 60, 1024)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broke"):
            await served.route(["bad"])
    assert len(router.calls) == 2
    served.close()
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.wait_for(served.route(["late"]), 120)
