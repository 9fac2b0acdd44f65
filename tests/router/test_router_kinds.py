"""Every kind of router: a decision for whatever it is asked, an error for files of other experts."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import BundleError
from router.cascade import CascadeRouter, HashedWordsModel
from router.embedding import EmbeddingRouter
from router.hashed_words import BUCKETS, hashed_words
from router.keyword import KeywordRouter
from router.protocol import Router
from router.semantic import SemanticRouter
from training.router.other_kinds import write_head

if TYPE_CHECKING:
    from tests.stand_ins.exported_router import Exported

LABELS = ("expert-0", "expert-1", "expert-2", "expert-3")
OTHERS = LABELS[:3]
TOKENS = 48
Open = Callable[[Path, tuple[str, ...]], Router]

ODD_TEXTS = {
    "empty": "",
    "only spaces": " \n\t ",
    "control characters": "\x00\x01\x07 a \x7f\x1b[31m\u200b\ufeff",
    "lone surrogates": json.loads('"\\ud800 half \\udfff"'),
    "another language": "どの専門家が答えますか？ Сколько будет два плюс два?",
    "emoji": "🙂" * 50,
    "one word of a million letters": "a" * 1_000_000,
    "a megabyte": "tell me a story about a cat \n" * 36_000,
}


def _keyword(folder: Path, labels: tuple[str, ...]) -> Router:
    words = ["cat", "story", "sum"]
    weights = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
    head = folder / "keyword.safetensors"
    write_head(head, {"W": weights}, LABELS, {"keywords": json.dumps(words)})
    return KeywordRouter(head, "router/head.safetensors", labels, TOKENS, 0.5)


def _embedding(exported: Exported) -> Open:
    def opened(folder: Path, labels: tuple[str, ...]) -> Router:
        means = np.random.default_rng(1).normal(size=(4, 384)).astype(np.float32)
        head = folder / "embedding.safetensors"
        write_head(head, {"W": means / np.linalg.norm(means, axis=1, keepdims=True)}, LABELS)
        return EmbeddingRouter(exported.folder, head, "router/head.safetensors", labels, TOKENS, 0.1)

    return opened


def _model(folder: Path, labels: tuple[str, ...]) -> HashedWordsModel:
    weights = np.zeros((4, BUCKETS), dtype=np.float32)
    weights[2, hashed_words("cat", 100)] = 20
    write_head(
        folder / "cascade.safetensors",
        {
            "W": weights,
            "b": np.array([0.1, 0, 0, 0], np.float32),
            "calibration": np.array([1, -3, 2], np.float32),
        },
        LABELS,
    )
    return HashedWordsModel(folder / "cascade.safetensors", "router/cascade.safetensors", labels, TOKENS)


def _cascade(exported: Exported) -> Open:
    return lambda folder, labels: CascadeRouter(_model(folder, labels), exported.router, 0.9)


@pytest.fixture(params=["keyword", "embedding", "semantic", "cascade"])
def open_router(request: pytest.FixtureRequest) -> Open:
    if request.param == "keyword":
        return _keyword
    exported: Exported = request.getfixturevalue("exported")
    if request.param == "semantic":
        return lambda _, labels: SemanticRouter(exported.folder, labels, TOKENS, 1.0)
    return {"embedding": _embedding, "cascade": _cascade}[request.param](exported)


def test_whatever_it_is_asked_it_decides(open_router: Open, tmp_path: Path) -> None:
    router = open_router(tmp_path, LABELS)
    together = router.probabilities(list(ODD_TEXTS.values()))
    assert together.shape == (len(ODD_TEXTS), 4)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    assert np.abs(together.sum(axis=1) - 1).max() < 1e-6
    for name, row in zip(ODD_TEXTS, together, strict=True):
        assert np.abs(router.probabilities([ODD_TEXTS[name]])[0] - row).max() < 1e-5, name
    assert router.probabilities([]).shape == (0, 4)


def test_a_megabyte_costs_what_a_page_does(open_router: Open, tmp_path: Path) -> None:
    router = open_router(tmp_path, LABELS)

    def fastest(text: str) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            router.probabilities([text])
            times.append(time.process_time() - began)
        return min(times)

    # A hundred times the text; all of it tokenised would take a hundred times as long, on any machine.
    assert fastest("a cat and " * 100_000) < 30 * fastest("a cat and " * 1_000) + 0.02


def test_files_of_other_experts_are_refused_by_name(open_router: Open, tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"router/(head\.safetensors|cascade\.safetensors|model\.onnx), field"
    ) as told:
        open_router(tmp_path, OTHERS)
    assert "the bundle has 3" in str(told.value)


def test_experts_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"made for 4 experts \(expert-0, expert-1"):
        _keyword(tmp_path, LABELS[::-1])


def test_keywords_are_counted_once_and_in_any_case(tmp_path: Path) -> None:
    [twice, none] = _keyword(tmp_path, LABELS).probabilities(["CAT, cat: a Story", "nothing of theirs"])
    scores = np.exp(np.array([2, 1, 0, 0]) / 0.5)
    assert twice.tolist() == pytest.approx((scores / scores.sum()).tolist())
    assert none.tolist() == [0.25] * 4


def test_embeddings_are_compared_by_their_direction(exported: Exported, tmp_path: Path) -> None:
    texts = ["a cat", "What is 17 times 24?"]
    h = exported.encoder.embed(texts, TOKENS).astype(np.float64)
    means = 3 * h[[0, 1, 0, 1]] + np.array([0, 0, 1, 1])[:, None]
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    head = tmp_path / "head.safetensors"
    write_head(head, {"W": means.astype(np.float32)}, LABELS)
    served = EmbeddingRouter(exported.folder, head, "head", LABELS, TOKENS, 0.1).probabilities(texts)
    cosines = (h / np.linalg.norm(h, axis=1, keepdims=True)) @ means.T
    expected = np.exp(cosines / 0.1)
    assert np.abs(served - expected / expected.sum(axis=1, keepdims=True)).max() < 1e-4
    assert served.argmax(axis=1).tolist() == [0, 1]


def test_the_cascade_answers_what_it_is_sure_of_and_leaves_the_rest_as_it_is(
    exported: Exported, tmp_path: Path
) -> None:
    router = _cascade(exported)(tmp_path, LABELS)
    assert isinstance(router, CascadeRouter)
    texts = ["cat", "a long text in which no word is known", "cat"]
    answers, sure = router.answered(texts)
    probabilities = answers.probabilities
    assert sure.tolist() == [True, False, True]
    assert np.array_equal(probabilities[1:2], exported.router.probabilities(texts[1:2]))
    scores = np.exp(np.array([0.1, 0, 20, 0]) / 2)  # one bucket: its root is one
    assert probabilities[0].tolist() == pytest.approx((scores / scores.sum()).tolist(), rel=1e-4)


def test_the_confidence_of_the_cascade_is_of_the_margin(tmp_path: Path) -> None:
    model = _model(tmp_path, LABELS)
    scores = np.array([[1, 5, 3, 2], [0, 0, 0, 0]], dtype=np.float32)
    assert model.confidence(scores).tolist() == pytest.approx([1 / (1 + np.exp(1)), 1 / (1 + np.exp(3))])


def test_a_cascade_of_another_width_is_refused(tmp_path: Path) -> None:
    write_head(
        tmp_path / "c.safetensors",
        {
            "W": np.zeros((4, 8), np.float32),
            "b": np.zeros(4, np.float32),
            "calibration": np.ones(3, np.float32),
        },
        LABELS,
    )
    with pytest.raises(BundleError, match=r"its shape is \[\d+, 8\], not \[\d+, 65536\]"):
        HashedWordsModel(tmp_path / "c.safetensors", "router/cascade.safetensors", LABELS, TOKENS)


def test_a_cascade_without_its_calibration_is_refused(tmp_path: Path) -> None:
    write_head(tmp_path / "c.safetensors", {"W": np.zeros((4, BUCKETS), np.float32)}, LABELS)
    with pytest.raises(BundleError, match=r"cascade\.safetensors, field 'W': it can't be read"):
        HashedWordsModel(tmp_path / "c.safetensors", "router/cascade.safetensors", LABELS, TOKENS)


def test_hashes_are_those_of_every_process_and_order_matters() -> None:
    # CRC-32 by its definition; Python's own hash would change with every start.
    assert hashed_words("Add", 100).tolist() == [zlib.crc32(b"add") % BUCKETS]
    assert set(hashed_words("a b", 100)) != set(hashed_words("b a", 100))
    assert set(hashed_words("a b", 100)) & set(hashed_words("b a", 100)) >= set(hashed_words("a", 100))
    assert len(hashed_words("a b c", 100)) == 3 + 2 + 1
    assert len(hashed_words("a a a", 100)) == 3  # each once
    assert hashed_words("", 100).tolist() == []
