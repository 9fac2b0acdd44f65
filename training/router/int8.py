"""The encoder's weights as eight-bit integers: a smaller graph beside the one in float32."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from router.encoder_graph import ALONE, TEXTS
from router.tokens import TextTokens
from training.router.activation_smoothing import write_smoothed


def quantise(source: Path, target: Path, texts: Sequence[str], tokens: TextTokens) -> None:
    """Write the graph of `source` with the encoder's matrices in int8, the head's in float32, into `target`.

    Weights get seven bits of the eight, a scale for each output: on CPUs with AVX2 and no VNNI two products of eight
    bits by eight would overflow sixteen. Activations are quantised as they come (dynamic), with one scale for all
    that is in a batch: the graph says of itself that texts go into it one by one. `texts` show which activations are
    large (`training/router/activation_smoothing.py`); there must be some.
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
