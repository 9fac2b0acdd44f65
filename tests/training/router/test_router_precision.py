"""Which precision is chosen, by decisions on held-out rows; on a real encoder that is too small to be good."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

import training.router.precision as precision
from router.encoder_graph import MODEL_FILE
from tests.stand_ins.tiny_encoder import save_encoder
from training.models.encoder import Encoder, load_encoder
from training.progress import Narrator
from training.router.export import write_router
from training.router.head import Head
from training.router.precision import ChosenPrecision, choose_precision
from training.router.rows import JudgedRows

ROWS = 2_000


class Setup(NamedTuple):
    folder: Path
    encoder: Encoder
    head: Head
    held_out: JudgedRows


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("precision")
    save_encoder(folder / "encoder")
    encoder = load_encoder(str(folder / "encoder"))
    head = Head(np.eye(2, encoder.hidden, dtype=np.float32), np.zeros(2, np.float32))
    write_router(folder / "router", encoder, head, ("a", "b"), ["add"], 16)
    fitted = np.arange(ROWS) % 2 == 0
    rows = JudgedRows(["add two numbers"] * ROWS, np.zeros(ROWS, np.int64), fitted)
    return Setup(folder / "router", encoder, head, rows)


@pytest.fixture
def setup(exported: Setup, tmp_path: Path) -> Setup:
    shutil.copytree(exported.folder, tmp_path / "router")
    return exported._replace(folder=tmp_path / "router")


def chosen(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, float32: NDArray[np.float32], int8: NDArray[np.float32]
) -> tuple[ChosenPrecision, str]:
    """What is chosen where the rows' scores are these `[n, 2]`; the graphs are real."""
    monkeypatch.setattr(precision, "_encodings", lambda *_: _encodings_of(int8, setup))
    said = io.StringIO()
    result = choose_precision(
        setup.folder,
        _encodings_of(float32, setup),
        setup.head.logits,
        ["add two numbers", "tell me a story"],
        setup.encoder.tokens(16),
        16,
        setup.held_out,
        Narrator(Console(file=said, width=300)),
    )
    return result, said.getvalue()


def _encodings_of(scores: NDArray[np.floating], setup: Setup) -> NDArray[np.float32]:
    """What the head, which takes an encoding's first two features, makes these scores of."""
    others = np.zeros((len(scores), setup.encoder.hidden - 2))
    return np.concatenate([scores, others], axis=1).astype(np.float32)


def scores_with_margins(margins: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.stack([margins, np.zeros_like(margins)], axis=1)


def test_int8_that_decides_the_same_takes_the_place(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    margins = np.linspace(0.01, 5, ROWS)
    found, said = chosen(setup, monkeypatch, scores_with_margins(margins), scores_with_margins(0.9 * margins))
    assert found.precision == "int8"
    assert "int8 keeps 100.00% of 2,000 held-out decisions: it is used" in said
    assert sorted(path.name for path in setup.folder.glob("*.onnx")) == [MODEL_FILE]
    assert np.array_equal(found.scores[:, 0], (0.9 * margins).astype(np.float32))


def test_float32_stays_where_int8_decides_otherwise(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    margins = np.linspace(0.01, 5, ROWS)
    float32 = scores_with_margins(np.where(np.arange(ROWS) % 100 == 0, -margins, margins))
    found, said = chosen(setup, monkeypatch, float32, scores_with_margins(margins))
    assert (found.precision, found.found["kept"]) == ("float32", False)
    assert "int8 keeps 99.00% of 2,000 held-out decisions, 99.5% are needed: float32 stays" in said
    assert sorted(path.name for path in setup.folder.glob("*.onnx")) == [MODEL_FILE]
    assert np.array_equal(found.scores, float32.astype(np.float32))


def test_the_scores_are_the_graphs_own(setup: Setup) -> None:
    held_out = JudgedRows(
        ["add two numbers", "tell me a story", ""] * 20, np.zeros(60, np.int64), np.arange(60) < 30
    )
    float32 = setup.encoder.embed(held_out.texts, 16)
    found = choose_precision(
        setup.folder,
        float32,
        setup.head.logits,
        ["add two numbers"],
        setup.encoder.tokens(16),
        16,
        held_out,
        Narrator(Console(file=io.StringIO())),
    )
    assert found.found["rows"] == 60
    assert found.scores.shape == (60, 2)
    assert np.abs(found.scores - setup.head.logits(float32)).max() < 0.3
    assert np.array_equal(found.scores, setup.head.logits(found.embeddings))
