"""Would splitting help? Asked of rows whose prompts tell their gradients, and of rows whose prompts say nothing."""

from __future__ import annotations

from training.split_estimate import Line, SplitEstimate

LINES = (Line(2, "gradients", 0.11, 0.10, 0.95), Line(3, "text", 0.15, 0.14, 1.0))


def test_the_verdict_is_one_sentence_with_its_figures() -> None:
    assert SplitEstimate(256, 0.05, LINES, 3).verdict == (
        "Splitting may help: K = 3 has a routed cosine of 0.150, one cluster has 0.050, and K-means on prompts 0.140 "
        "at best (K = 3)."
    )
    assert SplitEstimate(256, 0.148, LINES, 1).verdict == (
        "Don't split: one cluster has 0.148 as routed cosine, and K = 3, the best of the others, with 0.150 is not "
        "ahead by more than the spread of 20 splits."
    )
    assert SplitEstimate(256, 0.05, LINES, 3).summary()["lines"][1] == {
        "k": 3, "start": "text", "readable": 0.15, "text": 0.14, "ahead": 1.0,
    }  # fmt: skip
