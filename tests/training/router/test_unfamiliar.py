"""Fitted on planted encodings: how many held-out rows are caught wrongly, and whether what is strange is caught."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console
from safetensors.numpy import load_file

from router.familiarity import Familiarity
from router.known_pairs import BITS
from training.progress import Narrator
from training.router.rows import JudgedRows
from training.router.unfamiliar import (
    FAMILIAR,
    Encodings,
    fit_familiarity,
    fit_vocabulary,
    judge_unfamiliar,
    threshold_of,
)

H, KINDS, ROWS, HELD_OUT = 24, 3, 900, 2_000


def _encodings(rows: int, seed: int, kinds: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows of several kinds: each kind has a direction of its own, and all vary in a few others."""
    draw = np.random.default_rng(seed)
    spread = np.linspace(0.5, 0.01, kinds.shape[1])
    drawn = kinds[draw.integers(len(kinds), size=rows)] + draw.normal(size=(rows, kinds.shape[1])) * spread
    return (draw.uniform(1, 5, size=(rows, 1)) * drawn).astype(np.float32)  # lengths say nothing


@pytest.fixture(scope="module")
def kinds() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(KINDS, H))


@pytest.fixture(scope="module")
def known(kinds: NDArray[np.float64]) -> NDArray[np.float32]:
    return _encodings(ROWS, 1, kinds)


@pytest.fixture(scope="module")
def held_out() -> JudgedRows:
    fitted = np.random.default_rng(2).random(HELD_OUT) < 0.5
    return JudgedRows(["tell me a story"] * HELD_OUT, np.zeros(HELD_OUT, np.int64), fitted)


def test_held_out_rows_are_hardly_caught_and_another_kind_is(
    kinds: NDArray[np.float64], known: NDArray[np.float32], held_out: JudgedRows, tmp_path: Path
) -> None:
    said = io.StringIO()
    encodings = Encodings(known, _encodings(HELD_OUT, 3, kinds))
    narrator = Narrator(Console(file=said, width=300))
    path = tmp_path / "router" / "familiar.safetensors"
    record = judge_unfamiliar(path, "base", held_out, encodings, None, 0, narrator)
    assert (record.by, record.answers, record.quantile) == ("encoding", "base", FAMILIAR)
    assert (record.rows, record.most_unknown) == (int((~held_out.fitted).sum()), None)
    assert 0.002 < record.caught < 0.045  # 2 % are meant
    assert f"goes to the base: {record.caught:.1%} of {record.rows:,} held-out rows would" in said.getvalue()
    written = load_file(path)
    assert sorted(written) == ["prototypes", "whitening"]
    familiarity = Familiarity(written["whitening"], written["prototypes"], record.threshold)
    other = np.random.default_rng(4).normal(size=(KINDS, H))
    assert familiarity.too_far(_encodings(200, 5, other)).mean() > 0.95
    # Where training's rows hardly vary, a small step is a large one.
    along, across = kinds + 1.5 * np.eye(H)[0], kinds + 1.5 * np.eye(H)[-1]
    assert familiarity.too_far(_encodings(200, 6, across)).mean() > 0.95
    assert familiarity.too_far(_encodings(200, 6, along)).mean() < 0.5


def test_the_threshold_is_what_one_more_row_exceeds_that_often() -> None:
    distances = np.random.default_rng(0).permutation(np.arange(1.0, 100.0))  # 1 to 99
    assert threshold_of(distances, 0.98) == 98
    assert threshold_of(distances, 0.95) == 95
    assert threshold_of(distances[:10], 0.98) == distances[:10].max()


@pytest.mark.parametrize("rows", [np.ones((1, H)), np.ones((40, H)), np.zeros((3, H)), np.eye(H)[:5]])
def test_few_rows_or_all_alike_are_no_reason_to_fail(rows: NDArray[np.float64]) -> None:
    whitening, prototypes = fit_familiarity(rows.astype(np.float32), 0)
    assert np.isfinite(whitening).all()
    distances = Familiarity(whitening, prototypes).distances(rows.astype(np.float32))
    assert distances.tolist() == pytest.approx([0] * len(rows), abs=1e-2)


def test_without_an_encoder_pairs_of_words_tell(tmp_path: Path) -> None:
    texts = [f"tell me a story of {word} and {number} dogs" for number, word in enumerate("abcdefgh" * 20)]
    strange = ["erzähle mir eine Geschichte"] * 8
    fitted = np.arange(168) % 2 == 0
    held_out = JudgedRows([*texts, *strange], np.zeros(168, np.int64), fitted)
    vocabulary = fit_vocabulary(texts, held_out, 48, 0.9, 0)
    assert vocabulary.enough.tolist() == [True] * 160 + [False] * 8
    path = tmp_path / "familiar.safetensors"
    record = judge_unfamiliar(
        path, "fallback", held_out, None, vocabulary, 0, Narrator(Console(file=io.StringIO()))
    )
    assert (record.by, record.threshold) == ("word_pairs", vocabulary.most_unknown)
    assert record.caught == pytest.approx(4 / 84)
    assert load_file(path)["pairs"].shape == (BITS // 8,)
