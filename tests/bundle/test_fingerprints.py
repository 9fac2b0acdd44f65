"""How far two fingerprints are apart, and which can't be told apart."""

from __future__ import annotations

import math

import pytest

from bundle.fingerprints import BASE, Fingerprint, Fingerprints, FixedPrompt, TopTokens, distance, tolerance


def entry(**logprobs: float) -> TopTokens:
    """`entry(a=-1.0)`: the token ids are the letters' places."""
    tokens = sorted(logprobs, key=lambda letter: -logprobs[letter])
    return TopTokens(
        token_ids=tuple(ord(letter) for letter in tokens), logprobs=tuple(logprobs[t] for t in tokens)
    )


def test_the_distance_is_the_mean_difference_over_tokens_and_prompts() -> None:
    left = (entry(a=-1.0, b=-2.0), entry(a=-1.0, b=-2.0))
    right = (entry(a=-1.1, b=-2.3), entry(a=-1.0, b=-2.1))
    assert distance(left, left) == 0
    assert distance(left, right) == pytest.approx((0.1 + 0.3 + 0.0 + 0.1) / 4)
    assert distance(right, left) == distance(left, right)


def test_a_token_that_fell_out_of_the_top_counts_as_far_as_is_certain() -> None:
    left, right = (entry(a=-1.0, b=-2.0),), (entry(a=-1.0, c=-2.5),)
    # b has at most -2.5 on the right: 0.5 at least. c is above nothing that the left is sure of.
    assert distance(left, right) == pytest.approx((0.25 + 0.0) / 2)
    swapped_order = (entry(a=-1.0, b=-2.0), entry(b=-2.0))
    assert distance(swapped_order, (entry(a=-1.0, c=-2.0), entry(c=-2.0))) == 0  # a tie at the edge


def made(**adapters: Fingerprint) -> Fingerprints:
    prompt = FixedPrompt(text="hello", token_ids=(1, 2))
    return Fingerprints(prompts=(prompt,), base=(entry(a=-1.0),), adapters=adapters)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_pairs_within_three_tolerances_are_named(dtype: str) -> None:
    far = 3 * tolerance(dtype)
    near = made(one=(entry(a=-1.0 - 0.99 * far),), two=(entry(a=-1.0 - 2.5 * far),))
    assert [(one, other) for one, other, _ in near.alike(dtype)] == [(BASE, "one")]
    (sentence,) = near.warnings(dtype)
    assert sentence.startswith(f"{BASE} and one say nearly the same")
    apart = made(one=(entry(a=-1.0 - 1.01 * far),))
    assert apart.alike(dtype) == []
    assert math.isclose(distance(apart.base, apart.adapters["one"]), 1.01 * far)
