"""int8 is taken only where the router decides as before, and the head is never touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_encoder import save_encoder

from router.encoder_graph import EncoderGraph
from training.encoder import load_encoder
from training.router_export import write_router
from training.router_head import Head
from training.router_int8 import check_decisions, quantise


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return folder


def test_decisions_are_counted_by_the_best_expert() -> None:
    before = np.tile(np.array([[1.0, 0.0]]), (1000, 1))
    after = before.copy() * 0.3
    after[:5] = [0.0, 0.1]
    check = check_decisions(before, after)
    assert (check.unchanged, check.rows, check.kept) == (0.995, 1000, True)
    after[5] = [0.0, 0.1]
    assert not check_decisions(before, after).kept


def test_the_encoder_becomes_int8_and_the_head_stays(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(encoder_folder))
    rng = np.random.default_rng(0)
    k, h = 3, encoder.hidden
    head = Head(rng.normal(size=(k, h)).astype(np.float32), rng.normal(size=k).astype(np.float32))
    texts = ["add two numbers", "tell me a story", "", "write a function"]
    write_router(tmp_path, encoder, head, ("a", "b", "c"), texts, 16)
    quantise(tmp_path / "model.onnx", tmp_path / "small.onnx")
    weights = {each.name: each.data_type for each in onnx.load(tmp_path / "small.onnx").graph.initializer}
    assert onnx.TensorProto.INT8 in weights.values()
    matrices = [
        numpy_helper.to_array(each)
        for each in onnx.load(tmp_path / "small.onnx").graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and len(each.dims) == 2
    ]
    # Seven bits: two products of eight bits by eight overflow sixteen on CPUs without VNNI.
    assert max(int(np.abs(matrix.astype(int)).max()) for matrix in matrices) <= 64
    assert all(matrix.shape != (h, k) for matrix in matrices)
    (tmp_path / "small.onnx").replace(tmp_path / "model.onnx")
    logits = EncoderGraph(tmp_path, "logits", k, 16, 1, "head_and_tail").run(texts)
    embeddings = EncoderGraph(tmp_path, "text_embedding", h, 16, 1, "head_and_tail").run(texts)
    assert np.abs(logits - head.logits(embeddings)).max() < 1e-4
    assert np.abs(embeddings - encoder.embed(texts, 16)).max() < 0.2
    assert np.abs(embeddings - encoder.embed(texts, 16)).max() > 0
