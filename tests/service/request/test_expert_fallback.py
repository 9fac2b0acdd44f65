"""A bundle whose fallback is one of its experts, as `gradientspace pack` makes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bundle.manifest import FallbackRecord, Manifest
from router.policy import Policy
from router.threaded import Routed
from service.request.decision import Decider
from service.request.names import ModelNames
from tests.stand_ins.dispatch_setup import EXPERTS, small_manifest


def packed_manifest() -> Manifest:
    manifest = small_manifest(threshold=0.5)
    expert = manifest.experts[2]
    fallback = FallbackRecord(kind="expert", expert=expert.name, folder=expert.folder, digest=expert.digest)
    return Manifest.model_validate(manifest.model_copy(update={"fallback": fallback}).model_dump())


class Given:
    def __init__(self, rows: Sequence[Sequence[float]] | None) -> None:
        self.rows = rows

    def at_once(self, text: str) -> None:
        return None

    async def route(self, texts: Sequence[str], since: float | None = None) -> Routed:
        if self.rows is None:
            raise RuntimeError("boom")
        return Routed(np.array(self.rows, dtype=np.float32), 0.001, np.zeros(len(texts), dtype=bool))


async def test_the_expert_answers_under_its_own_name_whatever_the_reason() -> None:
    manifest = packed_manifest()
    names, policy = ModelNames(manifest), Policy.of(manifest)
    expert = names.experts[2]
    failed = await Decider(names, Given(None), policy).routed(["a"])
    assert [(d.target, d.reason) for d in failed.decisions] == [(expert, "router_error")]
    unsure, sure = [0.4, 0.3, 0.3], [0.1, 0.1, 0.8]
    decided = await Decider(names, Given([unsure, sure]), policy).routed(["a", "b"])
    assert [d.reason for d in decided.decisions] == ["low_confidence", "routed"]
    assert decided.by_target == {expert: [0, 1]}  # one request of the engine, not two
    assert ("x-gradientspace-expert", f"{EXPERTS[2]},{EXPERTS[2]}") in decided.headers


def test_the_engine_loads_it_once() -> None:
    manifest = packed_manifest()
    assert [adapter.engine_name for adapter in manifest.adapters] == [e.engine_name for e in manifest.experts]
