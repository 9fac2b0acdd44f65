"""What every request to the engine gets to stop at, and what clients see of it; with an engine it is in served/slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm import SamplingParams

from bundle.manifest import AnswerEnd
from service.engine.answer_end import EndingClient, ending, with_end

END = AnswerEnd(token_ids=(7, 9))
WITH_TEXT = AnswerEnd(token_ids=(7,), text="[over]")


@pytest.mark.parametrize("stop_token_ids", [None, [3], [7]])
@pytest.mark.parametrize("stop", [None, "e", ["a", "b"]])
def test_it_comes_to_what_the_client_gives(stop: Any, stop_token_ids: Any) -> None:
    asked = SamplingParams(stop=stop, stop_token_ids=stop_token_ids)
    params = with_end(asked, WITH_TEXT)
    assert set(params.stop_token_ids or ()) == {7, *(stop_token_ids or ())}
    assert params.stop == [*([stop] if isinstance(stop, str) else stop or []), "[over]"]
    assert asked.stop_token_ids == (stop_token_ids or [])  # the caller's own is left alone


def test_min_tokens_holds_for_it_and_ignore_eos_runs_past_it() -> None:
    assert {7, 9} <= with_end(SamplingParams(min_tokens=3), END).all_stop_token_ids
    past = with_end(SamplingParams(ignore_eos=True), WITH_TEXT)
    assert (past.stop, past.stop_token_ids) == ([], [])


class Engine:
    """Gives one answer, which stopped at what it is told."""

    def __init__(self, stop_reason: Any, eos: int = 2) -> None:
        self.stop_reason = stop_reason
        self.renderer = SimpleNamespace(get_tokenizer=lambda: SimpleNamespace(eos_token_id=eos))
        self.model_config = "the model's"
        self.asked: list[SamplingParams] = []
        self.closed = False

    async def generate(
        self, prompt: Any, params: SamplingParams, name: str, **kwargs: Any
    ) -> AsyncIterator[Any]:
        self.asked.append(params)
        try:
            yield SimpleNamespace(outputs=[SimpleNamespace(stop_reason=self.stop_reason)])
            yield SimpleNamespace(outputs=[SimpleNamespace(stop_reason=self.stop_reason)])
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("reason", "told"),
    [(7, None), ("[over]", None), ("e", "e"), (3, 3), (None, None), ("repetition", "repetition")],
)
def test_an_answers_proper_end_is_no_stop_of_the_clients(reason: Any, told: Any) -> None:
    engine = Engine(reason)

    async def ask() -> Any:
        params = SamplingParams(stop=["e"], stop_token_ids=[3])
        return [one async for one in EndingClient(engine, WITH_TEXT).generate({}, params, "id")]

    assert [answer.outputs[0].stop_reason for answer in asyncio.run(ask())] == [told, told]
    assert engine.asked[0].stop == ["e", "[over]"]


def test_who_stops_reading_stops_the_engine() -> None:
    engine = Engine(None)

    async def leave() -> None:
        answers = EndingClient(engine, END).generate({}, SamplingParams(), "id")
        await anext(answers)
        await answers.aclose()  # type: ignore[attr-defined]

    asyncio.run(leave())
    assert engine.closed


def test_where_the_engine_stops_by_itself_nothing_stands_between() -> None:
    engine = Engine(None, eos=7)
    assert ending(engine, None) is engine
    assert ending(engine, AnswerEnd(token_ids=(7,))) is engine
    between = ending(engine, WITH_TEXT)
    assert between is not engine
    assert between.model_config == "the model's"
