"""The encoder's weights as eight-bit integers, kept only where the router still decides the same."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

KEPT_DECISIONS = 0.995
"""Share of held-out decisions that must stay the same."""


@dataclass(frozen=True)
class Int8Check:
    """How many of `rows` held-out decisions were the same as in float32, and whether that is enough."""

    unchanged: float
    rows: int

    @property
    def kept(self) -> bool:
        """Whether int8 may take float32's place."""
        return self.unchanged >= KEPT_DECISIONS

    def summary(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self) | {"kept": self.kept, "needed": KEPT_DECISIONS}


def quantise(source: Path, target: Path) -> None:
    """Write the graph of `source` with the encoder's matrices in int8, the head's in float32, into `target`.

    Weights get seven bits of the eight, a scale for each output: on CPUs with AVX2 and no VNNI two products of eight
    bits by eight would overflow sixteen. Activations are quantised as they come (dynamic): a text's numbers depend a
    little on the batch it is in.
    """
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a pre-processing that a graph of ours needs not
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=_head(source),
        )
    finally:
        logger.setLevel(level)


def _head(graph: Path) -> list[str]:
    nodes = onnx.load(graph).graph.node
    makers = {output: node for node in nodes for output in node.output}
    before = [makers[name] for name in makers["logits"].input if name in makers]
    return [node.name for node in before if node.op_type == "MatMul"]


def check_decisions(before: NDArray[np.floating], after: NDArray[np.floating]) -> Int8Check:
    """Compare the decisions of scores `[n, K]` in float32 with those in int8."""
    same = before.argmax(axis=1) == after.argmax(axis=1)
    return Int8Check(float(same.mean()), len(same))
