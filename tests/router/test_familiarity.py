"""What is unlike anything in training: how far an encoding lies, and which pairs of words are new."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from router.cascade import CascadeRouter, HashedWordsModel
from router.encoder_graph import ENCODING, EncoderGraph
from router.familiarity import Familiarity
from router.hashed_words import BUCKETS, hashed_words
from router.keyword import KeywordRouter
from router.known_pairs import BITS, KnownPairs
from router.prompt_memory import PromptMemory
from router.semantic import SemanticRouter
from router.served import ServedRouter
from tests.stand_ins.exported_router import LABELS, MAX_TOKENS, Exported
from training.router.other_kinds import write_head

KNOWN, STRANGE = "What is 17 times 24?", "Расскажи мне историю"


def test_the_distance_is_mahalanobis_of_the_direction() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    covariance = root @ root.T + np.eye(5)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    means = rng.normal(size=(3, 5))
    familiarity = Familiarity(whitening.astype(np.float32), (means @ whitening).astype(np.float32), 9.0)
    embeddings = rng.normal(size=(20, 5)).astype(np.float32)
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = [
        min((row - mean) @ np.linalg.inv(covariance) @ (row - mean) for mean in means) for row in directions
    ]
    assert familiarity.distances(embeddings).tolist() == pytest.approx(expected, rel=1e-3)
    assert familiarity.distances(3 * embeddings).tolist() == pytest.approx(expected, rel=1e-3)
    assert familiarity.too_far(embeddings).tolist() == [distance > 9 for distance in expected]
    alone = [familiarity.distances(row[None])[0] for row in embeddings]
    assert familiarity.distances(embeddings).tolist() == alone  # a neighbour in the pass changes no bit


def test_pairs_of_words_are_known_in_their_order_and_with_any_number() -> None:
    known = KnownPairs.of(["Tom has 14 coins.", "a story about a cat"], 48)
    assert known.unknown("Tom has 9 coins.") == 0
    assert known.unknown("TOM HAS 9 COINS") == 0
    assert known.unknown("cat a about story a") > 0.7  # known words, one after the other as never before
    assert known.unknown("Tom has a cat") == pytest.approx(1 / 3)  # "has a"
    assert known.unknown("У Тома 14 монет") == 1
    assert known.unknown("") == known.unknown("word") == 1
    assert known.unknown(json.loads('"\\ud800 half \\udfff"')) == 1
    assert known.bits.shape == (BITS // 8,)
    # CRC-32 and Knuth's multiplier: "a" is e8b7be43, "b" 71beeff9.
    place = (((0xE8B7BE43 * 2654435761) & 0xFFFFFFFF) ^ 0x71BEEFF9) % BITS
    assert KnownPairs.of(["a b"], 48).bits[place >> 3] == 1 << (place & 7)


@pytest.fixture(scope="module")
def familiarity(exported: Exported) -> Familiarity:
    """One prompt is known, and nothing that lies further than its own rounding."""
    graph = EncoderGraph(exported.folder, {ENCODING: 384}, MAX_TOKENS, 1, "head_and_tail")
    direction = graph.run([KNOWN])[ENCODING]
    direction /= np.linalg.norm(direction)
    return Familiarity(np.eye(384, dtype=np.float32), direction, 0.5)


@pytest.fixture
def semantic(exported: Exported, familiarity: Familiarity) -> SemanticRouter:
    return SemanticRouter(exported.folder, LABELS, MAX_TOKENS, 1.7, familiarity=familiarity)


def test_one_pass_says_who_answers_and_what_is_unfamiliar(
    exported: Exported, semantic: SemanticRouter
) -> None:
    found = semantic.answers([KNOWN, STRANGE, KNOWN])
    assert found.unfamiliar.tolist() == [False, True, False]
    assert np.array_equal(found.probabilities, exported.router.probabilities([KNOWN, STRANGE, KNOWN]))
    assert exported.router.answers([STRANGE]).unfamiliar.tolist() == [False]  # nothing to go by
    assert semantic.answers([]).unfamiliar.shape == (0,)


def half_known(max_tokens: int) -> KnownPairs:
    """Half of a text's pairs may be new."""
    return KnownPairs(KnownPairs.of([KNOWN], max_tokens).bits, max_tokens, most_unknown=0.5)


def cascade(semantic: SemanticRouter, folder: Path, known: KnownPairs | None) -> CascadeRouter:
    """Sure of every text that has the word "times" or "Расскажи"."""
    weights = np.zeros((4, BUCKETS), np.float32)
    for word in ("times", "расскажи"):
        weights[2, hashed_words(word, 100)] = 90
    head = {
        "W": weights,
        "b": np.zeros(4, np.float32),
        "calibration": np.array([1, -3, 2], np.float32),
    }
    write_head(folder / "cascade.safetensors", head, LABELS)
    model = HashedWordsModel(folder / "cascade.safetensors", "cascade", LABELS, MAX_TOKENS)
    return CascadeRouter(model, semantic, 0.9, known)


@pytest.mark.parametrize("entries", [0, 10])
async def test_on_every_way_through_the_router_it_is_said(
    semantic: SemanticRouter, tmp_path: Path, entries: int
) -> None:
    router = cascade(semantic, tmp_path, half_known(MAX_TOKENS))
    assert router.answers([KNOWN, STRANGE]).unfamiliar.tolist() == [False, True]
    served = ServedRouter(router, PromptMemory("bundle", entries), 60, 1024)
    for _ in range(2):  # by the encoder, then from memory
        found = await served.route([STRANGE, KNOWN, STRANGE, "what is 17 times 24"])
        assert found.unfamiliar.tolist() == [True, False, True, False]
        alone = await served.route([STRANGE])
        assert alone.unfamiliar.tolist() == [True]
    at_once = served.at_once(STRANGE)
    if entries:
        assert at_once is not None
        assert at_once.unfamiliar.tolist() == [True]
    else:  # it is the encoder's to judge, however sure the linear model is
        assert at_once is None
    known = served.at_once("What is 3 times 5?")
    assert known is not None
    assert (known.unfamiliar.tolist(), known.linear) == ([False], 1)
    served.close()


def test_a_cascade_without_known_pairs_answers_whatever_it_is_sure_of(
    semantic: SemanticRouter, tmp_path: Path
) -> None:
    answers, by_model = cascade(semantic, tmp_path, None).answered([STRANGE])
    assert (answers.unfamiliar.tolist(), by_model.tolist()) == ([False], [True])


def test_a_router_without_an_encoder_goes_by_the_pairs(tmp_path: Path) -> None:
    head = tmp_path / "keyword.safetensors"
    write_head(head, {"W": np.ones((4, 1), np.float32)}, LABELS, {"keywords": '["times"]'})
    router = KeywordRouter(head, "head", LABELS, 48, 1.0, half_known(48))
    assert router.answers([KNOWN, STRANGE]).unfamiliar.tolist() == [False, True]
    assert KeywordRouter(head, "head", LABELS, 48, 1.0).answers([STRANGE]).unfamiliar.tolist() == [False]
