"""The cascade: it learns the encoder's scores, is judged on rows it has not seen, and is served as it was fitted."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from router.cascade import HashedWordsModel
from training.recipe_stage_three import RouterSection
from training.router import making
from training.router.cascade import AGREES, LEAST_ROWS, Cascade, fit_cascade, words_of
from training.router.quality import lower_bound
from training.router.rows import JudgedRows, RoutedRows

WORDS = ("add", "sum", "two", "numbers", "code", "function", "story", "cat", "moon", "the", "a", "please")
LABELS = ("expert-0", "expert-1", "expert-2")
TOKENS = 32


def _texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=6)) for _ in range(count)]


def _encoder(texts: list[str], noise: float = 0.0) -> np.ndarray:
    """Scores [n, 3] that words alone explain, but for the noise of each text."""
    weights = np.random.default_rng(7).normal(size=(len(WORDS), 3)) * 3
    counts = np.array([[text.split().count(word) for word in WORDS] for text in texts])
    own = np.array([np.random.default_rng(zlib.crc32(text.encode())).normal(size=3) for text in texts])
    return (counts @ weights + noise * own).astype(np.float32)


def _fitted(noise: float = 0.0, held_out: int = 1500) -> tuple[Cascade, np.ndarray]:
    known, unseen = _texts(1500, 1), _texts(held_out, 2)
    scores = _encoder(unseen, noise)
    cascade = fit_cascade(
        words_of(known, TOKENS), _encoder(known, noise), words_of(unseen, TOKENS), scores, scores.argmax(1), 0
    )
    return cascade, scores


def test_where_it_answers_it_says_what_the_encoder_says() -> None:
    cascade, _ = _fitted()
    fresh = _texts(2000, 3)
    scores = cascade.scores(words_of(fresh, TOKENS))
    sure = cascade.answers(scores)
    assert sure.mean() > 0.3
    assert (scores.argmax(1) == _encoder(fresh).argmax(1))[sure].mean() >= AGREES
    assert (scores.argmax(1) == _encoder(fresh).argmax(1))[~sure].mean() < AGREES


def test_the_threshold_is_what_unseen_rows_show() -> None:
    cascade, scores = _fitted()
    assert cascade.threshold is not None
    sure = cascade.answers(cascade.own_scores)
    same = cascade.own_scores.argmax(1) == scores.argmax(1)
    assert lower_bound(int(same[sure].sum()), int(sure.sum())) >= AGREES
    # By models that had not seen the rows: one that had would say more of them right.
    everything = cascade.scores(words_of(_texts(1500, 2), TOKENS))
    assert (everything.argmax(1) == scores.argmax(1)).mean() > same.mean()


def test_an_encoder_that_words_don_t_explain_is_left_to_itself() -> None:
    cascade, scores = _fitted(noise=40)
    assert cascade.threshold is None
    assert not cascade.answers(scores).any()


def test_too_few_rows_to_tell_leave_it_off() -> None:
    assert _fitted(held_out=300)[0].threshold is None


def test_it_is_served_as_it_was_fitted(tmp_path: Path) -> None:
    cascade, _ = _fitted()
    cascade.write(tmp_path / "cascade.safetensors", LABELS)
    served = HashedWordsModel(tmp_path / "cascade.safetensors", "shown", LABELS, TOKENS)
    texts = [*_texts(50, 4), "", "words it never saw"]
    scores = served.scores(texts)
    assert np.abs(scores - cascade.scores(words_of(texts, TOKENS))).max() < 1e-5
    assert served.confidence(scores) == pytest.approx(cascade.confidence(scores), abs=1e-6)
    sums = served.probabilities(scores).sum(axis=1)
    assert sums == pytest.approx(np.ones(52), abs=1e-6)


@pytest.mark.parametrize("fitted", [1, LEAST_ROWS - 1, LEAST_ROWS])
def test_too_few_held_out_rows_are_no_cascade_and_no_error(fitted: int) -> None:
    texts = _texts(60, 5)
    scores = _encoder(texts)
    marked = np.arange(len(texts)) < fitted
    made = making._cascade(
        RoutedRows(texts, scores.argmax(1)),
        JudgedRows(texts, scores.argmax(1), marked),
        scores,
        scores,
        RouterSection(),
        seed=0,
    )
    assert (made is not None) == (fitted >= LEAST_ROWS)
