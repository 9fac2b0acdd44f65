from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from evaluation.errors import EvidenceError
from evaluation.evidence.sentence_pairs import (
    Pair,
    _as_answers,
    _as_instructions,
    _correlation,
    read_pairs,
    sentence_pairs,
)
from tests.stand_ins.tiny_comparison import store_in
from training.run import Run

PAIRS = [
    Pair("Tom has two coins.", "Tom has two coins.", 5.0),
    Pair("Mia sells a cake.", "Rain falls on the hills.", 0.5),
    Pair("Nora reads.", "Nora reads a book.", 3.0),
    Pair("It costs him 4.", "Leo pays four.", 3.8),
]


def test_the_loss_is_that_of_the_sentences_own_tokens(tiny_run: Run) -> None:
    inputs = tiny_run.inputs
    sentences = ["Tom has two coins.", "Mia sells a cake.", "Rain falls."]
    for rows in (_as_instructions(inputs, sentences), _as_answers(inputs, sentences)):
        for sentence, row in zip(sentences, rows, strict=True):
            counted = [token for token in row.labels if token >= 0]
            assert inputs.tokenizer.decode(counted, skip_special_tokens=True) == sentence


def test_a_sentence_is_wholly_like_itself_and_the_order_of_pairs_is_kept(
    tiny_run: Run, tmp_path: Path
) -> None:
    found = sentence_pairs(tiny_run, store_in(tmp_path), PAIRS, seed=0).figures
    assert found["score"] == [5.0, 0.5, 3.0, 3.8]
    for cosines in (found["embedding"], *found["gradient"].values()):
        assert cosines[0] == pytest.approx(1, abs=1e-5)
        assert np.argmax(cosines) == 0
        assert max(cosines[1:]) < 0.999
    assert len(found["correlations"]) == 6


def test_correlations_are_scipys() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 30)).cumsum(axis=1)
    found = _correlation("a", "b", one, other, seed=0)
    for name, measure in (("pearson", pearsonr), ("spearman", spearmanr)):
        assert found[name]["value"] == pytest.approx(measure(one, other).statistic)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]


def test_pairs_are_drawn_by_the_seed_and_every_mistake_is_told(tmp_path: Path) -> None:
    file = tmp_path / "sts.jsonl"
    lines = [json.dumps({"sentence1": f"a{i}", "sentence2": f"b{i}", "score": i % 5}) for i in range(30)]
    file.write_text("\n".join(lines))
    drawn = read_pairs(file, 10, seed=1)
    assert drawn == read_pairs(file, 10, seed=1) != read_pairs(file, 10, seed=2)
    assert len({pair.first for pair in drawn}) == 10
    with pytest.raises(EvidenceError, match="holds 30 pairs, and 31 are asked for"):
        read_pairs(file, 31, seed=0)
    with pytest.raises(EvidenceError, match="--pairs FILE"):
        read_pairs(tmp_path / "none.jsonl", 3, seed=0)
    file.write_text('{"sentence1": "a", "score": 1}\n')
    with pytest.raises(EvidenceError, match="sentence1, sentence2 and a numeric score"):
        read_pairs(file, 1, seed=0)
