"""The words that set a cluster apart (Table 2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer


def top_terms(texts: Sequence[str], labels: NDArray[np.int64], k: int, count: int = 8) -> list[list[str]]:
    """Return, per cluster, the terms whose mean TF-IDF in it exceeds the mean over all texts by the most.

    A cluster whose texts hold no term gets an empty list.
    """
    vectorizer = TfidfVectorizer(stop_words="english", token_pattern=r"(?u)\b[^\W\d]\w+\b", sublinear_tf=True)
    try:
        weights = vectorizer.fit_transform(texts)  # [N, V]
    except ValueError:  # not one term in any text
        return [[] for _ in range(k)]
    vocabulary = vectorizer.get_feature_names_out()
    overall = np.asarray(weights.mean(axis=0)).ravel()  # [V]
    terms: list[list[str]] = []
    for label in range(k):
        members = np.flatnonzero(labels == label)
        if not len(members):
            terms.append([])
            continue
        excess = np.asarray(weights[members].mean(axis=0)).ravel() - overall  # [V]
        best = np.argsort(-excess, kind="stable")[:count]
        terms.append([str(vocabulary[term]) for term in best if excess[term] > 0])
    return terms
