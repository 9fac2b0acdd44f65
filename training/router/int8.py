"""The encoder's weights as eight-bit integers: a smaller graph beside the one in float32."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from router.encoder_graph import ALONE, TEXTS
from router.tokens import TextTokens


def quantise(source: Path, target: Path, texts: Sequence[str], tokens: TextTokens) -> None:
    """Write the graph of `source` with the encoder's matrices in int8, the head's in float32, into `target`.

    Weights get seven bits of the eight, a scale for each output: on CPUs with AVX2 and no VNNI two products of eight
    bits by eight would overflow sixteen. Activations are quantised as they come (dynamic), with one scale for all
    that is in a batch: the graph says of itself that texts go into it one by one. `texts` show which activations are
    large (`training/router/int8.py`); there must be some.
    """
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a pre-processing that a graph of ours needs not
    head = _head(source)
    try:
        with TemporaryDirectory() as folder:
            smoothed = Path(folder) / "smoothed.onnx"
            batches = ((ids, mask) for _, ids, mask in tokens.batches(texts))
            write_smoothed(source, smoothed, batches, frozenset(head))
            quantize_dynamic(
                smoothed,
                target,
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=head,
            )
        model = onnx.load(target)
        onnx.helper.set_model_props(model, {TEXTS: ALONE})
        onnx.save(model, target)
    finally:
        logger.setLevel(level)


def _head(graph: Path) -> list[str]:
    nodes = onnx.load(graph).graph.node
    makers = {output: node for node in nodes for output in node.output}
    before = [makers[name] for name in makers["logits"].input if name in makers]
    return [node.name for node in before if node.op_type == "MatMul"]


STRENGTH = 0.7
"""ours: how much of a feature's range its weights take; of 0.5 to 0.9, what changed the demo's decisions the least."""
_SMALLEST = 1e-5

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Input ids and mask, `[B, T]` each."""


def write_smoothed(source: Path, target: Path, batches: Iterable[Batch], without: frozenset[str]) -> None:
    """Write a graph that computes what `source` does: x W = (x / s) (s W), s `[features]` for each product.

    s_j = max|x_j|^a / max|W_j|^(1 - a), the first maximum over `batches`, a is `STRENGTH`. A few features of an
    encoder are a hundred times the others; with one scale for all, eight bits leave the others next to nothing.
    Products named in `without` stay as they are.
    """
    model = onnx.load(source)
    weights = {each.name: each for each in model.graph.initializer}
    products: dict[str, list[NodeProto]] = {}  # by what goes in: q, k and v share it
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.name not in without and node.input[1] in weights:
            products.setdefault(node.input[0], []).append(node)
    largest = _largest(model, list(products), batches)
    for name, nodes in products.items():
        matrices = [numpy_helper.to_array(weights[node.input[1]]) for node in nodes]  # [in, out] each
        rows = np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0)  # [in]
        scale = np.maximum(largest[name], _SMALLEST) ** STRENGTH / np.maximum(rows, _SMALLEST) ** (
            1 - STRENGTH
        )
        scale = scale.astype(np.float32)
        for node, matrix in zip(nodes, matrices, strict=True):
            own = f"{node.input[1]}.smoothed.{node.name}"
            model.graph.initializer.append(numpy_helper.from_array(scale[:, None] * matrix, own))
            node.input[0], node.input[1] = f"{name}.smoothed", own
        inverse = f"{name}.smoothing"
        model.graph.initializer.append(numpy_helper.from_array(1 / scale, inverse))
        first = list(model.graph.node).index(nodes[0])  # the graph's nodes stand in the order they run
        model.graph.node.insert(
            first, helper.make_node("Mul", [name, inverse], [f"{name}.smoothed"], f"{name}.smooth")
        )
    used = {name for node in model.graph.node for name in node.input}
    for place in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[place].name not in used:
            del model.graph.initializer[place]
    onnx.save(model, target)


def _largest(
    model: onnx.ModelProto, names: list[str], batches: Iterable[Batch]
) -> dict[str, NDArray[np.float32]]:
    """Return the largest absolute value of each feature `[features]` of each named tensor over all batches."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    largest: dict[str, NDArray[np.float32]] = {}
    for ids, mask in batches:
        for name, values in zip(
            names, session.run(names, {"input_ids": ids, "attention_mask": mask}), strict=True
        ):
            found = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)  # [features]
            largest[name] = np.maximum(largest.get(name, found), found)
    return largest
