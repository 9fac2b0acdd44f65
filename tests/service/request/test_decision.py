"""Who decides and when: at once or later, by name, by the router, by the fallback where that fails or is unsure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np
import pytest

from router.threaded import Routed
from service import headers
from tests.stand_ins.dispatch_setup import Setup, WordRouter


class AtOnce(WordRouter):
    """Answers a single text in the turn of the loop in which it is asked, if `answers`."""

    def __init__(self, answers: bool = True) -> None:
        super().__init__()
        self.answers = answers
        self.tasks: list[int] = []
        self.since: list[float | None] = []

    def at_once(self, text: str) -> Routed | None:
        self.tasks.append(len(asyncio.all_tasks()))
        row = np.full((1, 3), 0.1, dtype=np.float32)
        row[0, int(text[0])] = 0.8
        return Routed(row, 0.0, np.zeros(1, dtype=bool), linear=1) if self.answers else None

    async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
        self.tasks.append(len(asyncio.all_tasks()))
        self.since.append(since)
        return await super().route(texts)


async def test_what_is_decided_at_once_starts_no_task() -> None:
    router = AtOnce()
    answer = await Setup(router).post("/v1/completions", {"prompt": "2 hello"})
    assert answer.headers[headers.EXPERT] == "expert-2"
    assert router.seen == []
    waiting = AtOnce(answers=False)
    answer = await Setup(waiting).post("/v1/completions", {"prompt": "2 hello"})
    assert answer.headers[headers.EXPERT] == "expert-2"
    assert waiting.seen == ["2 hello"]
    alone, beside = waiting.tasks
    assert router.tasks == [alone] < [beside]  # the router's own, and the one that sees the client leave


async def test_a_router_that_waits_knows_since_when_it_was_asked() -> None:
    router = AtOnce(answers=False)
    before = time.perf_counter()
    await Setup(router).post("/v1/completions", {"prompt": "2 hello"})
    await Setup(router).post("/v1/completions", {"prompt": ["2 a", "2 b"]})
    asked, of_list = router.since
    assert asked is not None
    assert before < asked < time.perf_counter()
    assert of_list is None  # a list was never asked for at once


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("broken", [RuntimeError("boom"), "shape", "nan"])
async def test_a_router_that_fails_never_fails_a_request(broken: object, when: str) -> None:
    class Broken:
        def at_once(self, text: str) -> Routed | None:
            return self.fails([text]) if when == "at once" else None

        async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
            return self.fails(texts)

        def fails(self, texts: Sequence[str]) -> Routed:
            if isinstance(broken, Exception):
                raise broken
            shape = (len(texts), 3 if broken == "nan" else 2)
            rows = np.full(shape, np.nan if broken == "nan" else 0.5, dtype=np.float32)
            return Routed(rows, 0.001, np.zeros(len(texts), dtype=bool))

    setup = Setup(Broken())
    answer = await setup.post("/v1/completions", {"prompt": "1 hello"})
    assert answer.status_code == 200
    assert answer.json()["model"] == setup.names.fallback.engine_name
    assert answer.headers[headers.EXPERT] == "fallback"
    assert answer.headers[headers.REASON] == "router_error"
    assert answer.headers[headers.CONFIDENCE] == "0.0000"
    assert setup.count("fallbacks_total", reason="router_error") == 1
    assert setup.count("router_seconds_count") == 0


async def test_below_the_threshold_the_fallback_answers() -> None:
    for threshold, expert, reason in [(None, "expert-1", "routed"), (0.9, "fallback", "low_confidence")]:
        setup = Setup(threshold=threshold)
        answer = await setup.post("/v1/completions", {"prompt": "1 hello"})
        assert answer.headers[headers.EXPERT] == expert
        assert answer.headers[headers.REASON] == reason
        assert answer.headers[headers.CONFIDENCE] == "0.8000"
        assert setup.count("fallbacks_total", reason="low_confidence") == (reason != "routed")


async def test_where_no_expert_was_shown_to_help_the_fallback_answers() -> None:
    # The router is 0.8 sure: expert-0 helps from there on, expert-1 is not in the bundle, expert-2 needs more.
    setup = Setup(helps_from=[0.7, None, 0.9])
    for label, expert, reason in [
        (0, "expert-0", "routed"),
        (1, "fallback", "no_gain"),
        (2, "fallback", "no_gain"),
    ]:
        answer = await setup.post("/v1/completions", {"prompt": f"{label} hello"})
        assert answer.headers[headers.EXPERT] == expert
        assert answer.headers[headers.REASON] == reason
        assert answer.headers[headers.CONFIDENCE] == "0.8000"
    assert setup.count("fallbacks_total", reason="no_gain") == 2
    digest = setup.names.bundle
    for label in range(3):  # what the router would choose is counted, whoever answers
        assert setup.count("routed_texts_total", bundle=digest, expert=f"expert-{label}") == 1
    assert (await setup.post("/v1/completions", {"model": "expert-1", "prompt": "a"})).status_code == 404
    assert (await setup.post("/v1/completions", {"model": "expert-2", "prompt": "a"})).headers[
        headers.REASON
    ] == "named"


@pytest.mark.parametrize(
    ("answers", "expert"), [("fallback", "fallback"), ("base", "tiny"), (None, "expert-1")]
)
async def test_what_is_unlike_training_goes_where_the_bundle_says(answers: str | None, expert: str) -> None:
    setup = Setup(unfamiliar=answers, threshold=None if answers is None else 0.9)  # before low confidence
    answer = await setup.post("/v1/completions", {"prompt": "1 ¿qué?!"})
    reason = "routed" if answers is None else "unfamiliar"
    assert (answer.headers[headers.EXPERT], answer.headers[headers.REASON]) == (expert, reason)
    assert answer.headers[headers.CONFIDENCE] == "0.8000"
    assert setup.inner.bodies[-1]["model"] == answer.json()["model"]
    assert setup.count("fallbacks_total", reason="unfamiliar") == (answers is not None)
    assert setup.count("routed_texts_total", bundle=setup.names.bundle, expert="expert-1") == 1
    asked = ["2 a", "1 ¿qué?!", "0 b"]
    listed = await Setup(unfamiliar=answers).post("/v1/completions", {"prompt": asked})
    assert listed.headers[headers.EXPERT] == f"expert-2,{expert},expert-0"
    assert listed.headers[headers.REASON] == f"routed,{reason},routed"


async def test_a_router_that_is_not_sure_is_the_first_reason() -> None:
    setup = Setup(threshold=0.9, helps_from=[0.95, None, 0.5])
    for label in range(3):
        answer = await setup.post("/v1/completions", {"prompt": f"{label} hello"})
        assert answer.headers[headers.REASON] == "low_confidence"


async def test_a_bundle_may_hold_no_expert_at_all() -> None:
    setup = Setup(helps_from=[None, None, None])
    answer = await setup.post("/v1/completions", {"prompt": "1 hello"})
    assert (answer.headers[headers.EXPERT], answer.headers[headers.REASON]) == ("fallback", "no_gain")


async def test_a_named_expert_needs_no_router() -> None:
    setup = Setup(WordRouter(RuntimeError("must not be asked")))
    for name in ("expert-2", setup.names.experts[2].engine_name):
        answer = await setup.post("/v1/completions", {"model": name, "prompt": "0 hello"})
        assert answer.json()["model"] == setup.names.experts[2].engine_name
        assert answer.headers[headers.REASON] == "named"
    base = await setup.post("/v1/completions", {"model": "tiny", "prompt": "0 hello"})
    assert (base.json()["model"], base.headers[headers.EXPERT]) == ("tiny", "tiny")
