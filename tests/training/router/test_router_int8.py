"""The encoder in int8: smaller matrices, the same head, and outlying activations that cost the others nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from router.encoder_graph import ENCODING, LOGITS, EncoderGraph
from tests.stand_ins.tiny_encoder import save_encoder
from training.models.encoder import load_encoder
from training.router.export import write_router
from training.router.head import Head
from training.router.int8 import quantise, write_smoothed


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder)
    return folder


def test_the_encoder_becomes_int8_and_the_head_stays(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(encoder_folder))
    rng = np.random.default_rng(0)
    k, h = 3, encoder.hidden
    head = Head(rng.normal(size=(k, h)).astype(np.float32), rng.normal(size=k).astype(np.float32))
    texts = ["add two numbers", "tell me a story", "", "write a function"]
    write_router(tmp_path, encoder, head, ("a", "b", "c"), texts, 16)
    quantise(tmp_path / "model.onnx", tmp_path / "small.onnx", texts, encoder.tokens(16))
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
    both = EncoderGraph(tmp_path, {LOGITS: k, ENCODING: h}, 16, 1, "head_and_tail").run(texts)
    logits, embeddings = both[LOGITS], both[ENCODING]
    assert np.abs(logits - head.logits(embeddings)).max() < 1e-4
    assert np.abs(embeddings - encoder.embed(texts, 16)).max() < 0.2
    assert np.abs(embeddings - encoder.embed(texts, 16)).max() > 0


def test_a_text_in_int8_is_read_as_if_it_were_alone(encoder_folder: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(encoder_folder))
    head = Head(np.ones((2, encoder.hidden), np.float32), np.zeros(2, np.float32))
    texts = ["add two numbers", "tell me a story about a cat and a dog", "write"]
    write_router(tmp_path, encoder, head, ("a", "b"), texts, 16)
    quantise(tmp_path / "model.onnx", tmp_path / "model.int8.onnx", texts, encoder.tokens(16))
    outputs = {ENCODING: encoder.hidden}
    graph = EncoderGraph(tmp_path, outputs, 16, 1, "head_and_tail", "model.int8.onnx")
    together = graph.run(texts)[ENCODING]
    assert np.array_equal(together, np.vstack([graph.run([text])[ENCODING] for text in texts]))
    assert graph.run([])[ENCODING].shape == (0, encoder.hidden)


def _products(folder: Path, matrices: list[np.ndarray]) -> Path:
    """A graph of x @ W for each matrix, by the names that an encoder's graph has."""
    names = [f"W{place}" for place in range(len(matrices))]
    features = matrices[0].shape[0]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["ids", "mask"], ["x"]),
            *(
                helper.make_node("MatMul", ["x", name], [f"y{place}"], f"product-{place}")
                for place, name in enumerate(names)
            ),
        ],
        "products",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["B", features])
            for name in ("input_ids", "attention_mask")
        ],
        [
            helper.make_tensor_value_info(f"y{place}", TensorProto.FLOAT, ["B", matrix.shape[1]])
            for place, matrix in enumerate(matrices)
        ],
        [numpy_helper.from_array(matrix, name) for name, matrix in zip(names, matrices, strict=True)],
    )
    path = folder / "products.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_smoothing_changes_no_product_and_takes_the_outliers_out_of_what_goes_in(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrices = [rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=(6, 2)).astype(np.float32)]
    source, target = _products(tmp_path, matrices), tmp_path / "smoothed.onnx"
    ids = rng.integers(-3, 4, size=(8, 6))
    ids[:, 4] *= 200  # one feature is a hundred times the others
    mask = np.ones_like(ids)
    write_smoothed(source, target, [(ids[:4], mask[:4]), (ids[4:], mask[4:])], frozenset())
    feeds = {"input_ids": ids, "attention_mask": mask}
    before = onnxruntime.InferenceSession(source).run(None, feeds)
    model = onnx.load(target)
    model.graph.output.append(onnx.ValueInfoProto(name="x.smoothed"))
    *after, x = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    for expected, found in zip(before, after, strict=True):
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    largest = np.abs(x).max(axis=0)
    assert largest.max() / np.median(largest) < 10 < np.abs(ids).max(axis=0).max() / 3
    assert [node.op_type for node in model.graph.node].count("Mul") == 2  # one for both products


def test_a_product_that_is_to_stay_is_not_smoothed(tmp_path: Path) -> None:
    matrices = [np.ones((4, 2), np.float32), np.full((4, 2), 5, np.float32)]
    source, target = _products(tmp_path, matrices), tmp_path / "smoothed.onnx"
    ids = np.ones((1, 4), np.int64)
    write_smoothed(source, target, [(ids, ids)], frozenset({"product-1"}))
    kept = {each.name: numpy_helper.to_array(each) for each in onnx.load(target).graph.initializer}
    assert "W0" not in kept
    assert np.array_equal(kept["W1"], matrices[1])
