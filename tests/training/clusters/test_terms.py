from __future__ import annotations

import numpy as np

from training.clusters.terms import top_terms

TEXTS = [
    "add two numbers",
    "add three numbers and numbers",
    "tell a story",
    "a story about cats",
    "write code",
    "code",
]
LABELS = np.array([0, 0, 1, 1, 2, 2])


def test_terms_set_their_cluster_apart() -> None:
    terms = top_terms(TEXTS, LABELS, 3)
    assert set(terms[0][:2]) == {"add", "numbers"}
    assert terms[1][0] == "story"
    assert terms[2][0] == "code"
    assert not set(terms[0]) & set(terms[1])


def test_words_that_say_nothing_are_left_out() -> None:
    """Stop words, numbers, and what every cluster says equally."""
    texts = [f"kindly the and 42 {word}" for word in ("apple", "apple", "brick", "brick")]
    assert top_terms(texts, np.array([0, 0, 1, 1]), 2) == [["apple"], ["brick"]]


def test_at_most_as_many_as_asked_for() -> None:
    assert [len(terms) for terms in top_terms(TEXTS, LABELS, 3, count=1)] == [1, 1, 1]


def test_no_rows_and_no_words() -> None:
    assert top_terms(TEXTS, LABELS, 4)[3] == []
    assert top_terms(["42", "+ 7"], np.array([0, 1]), 2) == [[], []]


def test_the_same_texts_give_the_same_terms() -> None:
    assert top_terms(TEXTS, LABELS, 3) == top_terms(list(TEXTS), LABELS.copy(), 3)
