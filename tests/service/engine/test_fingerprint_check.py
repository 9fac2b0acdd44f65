"""What the comparison with the record refuses, and how it says so; with an engine it is in test_reload."""

from __future__ import annotations

import pytest

from bundle.errors import BundleError
from bundle.fingerprints import BASE, Fingerprint, Fingerprints, FixedPrompt, TopTokens, pairs, tolerance
from service.engine.fingerprints import compare

DTYPE = "float32"
SLIGHTLY, MUCH = 0.5 * tolerance(DTYPE), 100 * tolerance(DTYPE)


def at(place: float) -> Fingerprint:
    """Fingerprints on a line: `at(a)` and `at(b)` are |a - b| apart."""
    return (TopTokens(token_ids=(7, 8), logprobs=(-1.0 - place, -2.0 - place)),)


RECORD = Fingerprints(
    prompts=(FixedPrompt(text="hello", token_ids=(1,)),),
    base=at(0),
    adapters={"expert-0": at(MUCH), "expert-1": at(3 * MUCH), "fallback": at(6 * MUCH)},
)


def refusal(record: Fingerprints, **changed: Fingerprint) -> str:
    with pytest.raises(BundleError) as caught:
        compare(
            record, record.all | {name.replace("_", "-"): value for name, value in changed.items()}, DTYPE
        )
    return str(caught.value)


def test_rounding_passes_and_the_largest_is_told() -> None:
    measured = RECORD.all | {"expert-1": at(3 * MUCH + SLIGHTLY)}
    assert compare(RECORD, measured, DTYPE) == pytest.approx(SLIGHTLY)


def test_swapped_experts_are_named_with_how_far_and_with_whom() -> None:
    told = refusal(RECORD, expert_0=at(3 * MUCH + SLIGHTLY), expert_1=at(MUCH))
    assert told.startswith("fingerprints.json, field 'adapters.expert-0': expert-0 is 2")
    assert "2 nats away from its fingerprint, 0.01 are allowed" in told
    assert "it says what expert-1 should say (0.005 nats), as if they were swapped" in told


def test_an_adapter_that_does_nothing() -> None:
    assert "it says what the base model says, so the adapter does nothing" in refusal(RECORD, expert_1=at(0))


def test_an_adapter_that_is_none_of_them() -> None:
    told = refusal(RECORD, fallback=at(9 * MUCH))
    assert "fallback is 3 nats away from its fingerprint, 0.01 are allowed. Copy the bundle" in told


def test_another_base_is_what_is_named_though_everything_differs() -> None:
    off = {BASE: at(MUCH / 2), **{name: at(9 * MUCH + n * MUCH) for n, name in enumerate(RECORD.adapters)}}
    with pytest.raises(BundleError, match=r"field 'base': the base model is 0.5 nats away") as caught:
        compare(RECORD, off, DTYPE)
    assert "Give the base model that the bundle was trained on" in str(caught.value)


def test_adapters_that_are_alike_in_the_record_need_not_differ() -> None:
    alike = RECORD.model_copy(update={"adapters": RECORD.adapters | {"expert-1": at(MUCH + SLIGHTLY)}})
    assert compare(alike, alike.all, DTYPE) == 0
    assert len(alike.warnings(DTYPE)) == 1


def test_what_passes_tells_every_pair_apart_that_the_record_tells_apart() -> None:
    apart = 3.01 * tolerance(DTYPE)
    near = RECORD.model_copy(update={"adapters": RECORD.adapters | {"expert-1": at(MUCH + apart)}})
    assert near.alike(DTYPE) == []
    limit = 0.999 * tolerance(DTYPE)
    measured = near.all | {"expert-0": at(MUCH + limit), "expert-1": at(MUCH + apart - limit)}
    assert compare(near, measured, DTYPE) == pytest.approx(limit)
    assert all(far > tolerance(DTYPE) for _, _, far in pairs(measured))
